"""What ``generate`` may be asked for while tokens are dropped, checked where it is asked."""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from rcp.errors import UserError


def guard_generate(model: Any) -> Callable[[], None]:
    """Let ``model.generate`` refuse what dropping cannot serve; returns what undoes it.

    A chunk of a prompt cannot be told from a new turn once it reaches a forward, so the request
    itself is checked. The guard is a bound method: a deep copy of the model binds its own.
    """
    before = model.__dict__.get("generate")
    model.generate = MethodType(_checked_generate, model)

    def undo() -> None:
        del model.generate
        if before is not None:
            model.generate = before

    return undo


def _checked_generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    generate = type(model).generate
    call = inspect.signature(generate).bind_partial(model, *args, **kwargs).arguments
    call |= call.pop("kwargs", {})
    config = call.get("generation_config") or model.generation_config
    chunk = call.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    if chunk is not None:
        raise UserError(
            f"prefill_chunk_size={chunk} would prune each chunk of the prompt by itself, before "
            f"the question is known. Leave it at None while a plug-in is attached."
        )
    cache = call.get("cache_implementation", getattr(config, "cache_implementation", None))
    if cache is not None and "static" in cache:
        raise static_cache(cache)
    return generate(model, *args, **kwargs)


def static_cache(name: str) -> UserError:
    """The refusal of a cache called ``name`` whose length is fixed."""
    return UserError(
        f"The cache '{name}' holds equally many tokens in every layer, but dropping leaves each "
        f'layer its own number. Use cache_implementation="dynamic", or detach the plug-in.'
    )
