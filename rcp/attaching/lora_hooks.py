"""Low-rank adapters on the linear modules of a model."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rcp.backbones.placement import device_of
from rcp.errors import UserError
from rcp.plugin.lora import Lora


def hook_lora(lora: Lora, model: nn.Module, dtype: torch.dtype | None = None) -> list[Any]:
    """Let the linear modules of ``model`` add what the adapters ``lora`` give; returns the hooks.

    The adapters move to the devices of their modules, and to ``dtype`` unless it is None.
    """
    hooks = []
    # all of them, before one gets a hook
    modules = [_linear(lora, model, name) for name in lora.spec.modules]
    for module, pair in zip(modules, lora.pairs.values()):
        pair.to(device=device_of(module), dtype=dtype)
        hooks.append(module.register_forward_hook(partial(_add, pair)))
    return hooks


def is_hooked(lora: Lora, model: nn.Module) -> bool:
    """Whether the linear modules of ``model`` add what the adapters ``lora`` give at present."""
    name, pair = next(iter(lora.spec.modules)), next(iter(lora.pairs.values()))
    hooks = model.get_submodule(name)._forward_hooks.values()
    return any(isinstance(hook, partial) and hook.args == (pair,) for hook in hooks)


def _linear(lora: Lora, model: nn.Module, name: str) -> nn.Module:
    """The linear module ``name`` of ``model``, refused if there is none of these sizes."""
    try:
        module: Any = model.get_submodule(name)
    except AttributeError:
        module = None
    sizes = lora.spec.modules[name]
    if [getattr(module, size, None) for size in ("in_features", "out_features")] != sizes:
        raise UserError(
            f"The plug-in has a low-rank adapter for '{name}' with {sizes[0]} and {sizes[1]} "
            f"features, but {type(model).__name__} has no linear module of that name and "
            f"size. Attach it to the base it was made for."
        )
    return module


def _add(pair: nn.Module, _: nn.Module, rows: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + pair(rows[0]).to(output.dtype)
