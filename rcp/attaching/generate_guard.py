"""What ``generate`` may be asked for while tokens are dropped, checked where it is asked."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from rcp.attaching.forwards.forward import Setup
from rcp.attaching.hooks import OfThread
from rcp.attaching.stand_in import StandIn
from rcp.attaching.visual_budget import schedules_for
from rcp.choosing.schedule import Schedule
from rcp.errors import UserError


class Guard:
    """Stands in for ``model.generate`` and refuses what dropping cannot serve.

    A chunk of a prompt cannot be told from a new turn once it reaches a forward, so the request
    itself is checked. It also takes ``visual_budget``, of which `generate` knows nothing.
    """

    def __init__(self, model: Any, setup: Setup) -> None:
        self.model = model
        self.setup = setup
        self._local = OfThread()  # whether this thread generates, and within which budgets
        self._stand_in = StandIn(model, "generate", self._generate)

    @property
    def generating(self) -> bool:
        """Whether the forward now running is one of ``generate``."""
        return getattr(self._local, "generating", False)

    @property
    def budgets(self) -> Sequence[Schedule]:
        """Those of the running ``generate``: one schedule, or one a row; none without."""
        return getattr(self._local, "budgets", ())

    def remove(self) -> None:
        """Give the model its own ``generate`` back."""
        self._stand_in.undo()

    def _generate(
        self, before: Callable[..., Any], *args: Any, visual_budget: Any = None, **kwargs: Any
    ) -> Any:
        call = _arguments(self.model, args, kwargs)
        _check_request(self.model, call, self.setup.before_decoder)
        outer = self.generating, self.budgets
        budgets = self.budgets  # of the `generate` that drafts with this one, if there is one
        if visual_budget is not None:
            budgets = schedules_for(visual_budget, self.setup, _rows(call))
        self._local.generating, self._local.budgets = True, budgets
        try:
            return before(*args, **kwargs)
        finally:
            self._local.generating, self._local.budgets = outer


class NoContinuousBatching:
    """Stands in for what begins continuous batching, `generate_batch` included, and refuses it.

    A manager that was made before is met in its forwards: see :func:`refuse_pages`.
    """

    def __init__(self, model: Any) -> None:
        self._stand_in = StandIn(model, "init_continuous_batching", self._begin)

    def remove(self) -> None:
        """Give the model its own method back."""
        self._stand_in.undo()

    def _begin(self, *_: Any, **__: Any) -> Any:
        raise continuous_batching()


def refuse_pages(cache: Any) -> None:
    """Raise ``UserError`` for a ``cache`` of pages, which knows no length of a sequence."""
    if cache is not None and not hasattr(cache, "get_seq_length"):
        raise continuous_batching()


def _arguments(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """By name, what ``generate`` was called with."""
    generate = type(model).generate
    call = inspect.signature(generate).bind_partial(model, *args, **kwargs).arguments
    return call | call.pop("kwargs", {})


def _rows(call: dict[str, Any]) -> int | None:
    """How many prompts a ``call`` of ``generate`` has; None where none is given."""
    prompts = (call.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))
    return next((len(rows) for rows in prompts if rows is not None), None)


def _check_request(model: Any, call: dict[str, Any], fixed_length: bool) -> None:
    """``fixed_length``: caches that are allocated for a length can be served."""
    config = call.get("generation_config") or model.generation_config
    chunk = call.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    if chunk is not None:
        raise UserError(
            f"prefill_chunk_size={chunk} would prune each chunk of the prompt by itself, before "
            f"the question is known. Leave it at None while a plug-in is attached."
        )
    cache = call.get("cache_implementation", getattr(config, "cache_implementation", None))
    if cache == "paged":
        raise continuous_batching()
    if cache is not None and "static" in cache and not fixed_length:
        raise static_cache(cache)
    exit_at = call.get("assistant_early_exit", getattr(config, "assistant_early_exit", None))
    if exit_at is not None:
        raise UserError(
            f"assistant_early_exit={exit_at} drafts with the first layers of the same model, whose "
            f"cache would hold what the others have not dropped. Use prompt_lookup_num_tokens or "
            f"an assistant_model, or detach the plug-in."
        )


def continuous_batching() -> UserError:
    """The refusal of `generate_batch` and of all else that packs prompts into a paged cache."""
    return UserError(
        "Continuous batching (generate_batch) keeps one table of pages for all layers, but "
        "dropping leaves each layer its own tokens. Use generate, which takes batches too, or "
        "detach the plug-in."
    )


def static_cache(name: str) -> UserError:
    """The refusal of a cache called ``name`` whose length is fixed."""
    return UserError(
        f"The cache '{name}' holds equally many tokens in every layer, but dropping inside the "
        f"decoder leaves each layer its own number. Use cache_implementation=\"dynamic\", or a "
        f"plug-in whose only stage is at layer 0."
    )
