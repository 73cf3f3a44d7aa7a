"""The plug-in's weights in full, also where processes hold a shard of each."""

from typing import Any

import torch
from torch import Tensor, nn

from rcp.plugin import Plugin


def gathered_weights(plugin: Plugin) -> dict[str, Tensor]:
    """The state dict on the CPU, trained parameters in fp32; all processes must call it together.

    Under DeepSpeed these are the optimiser's own fp32 weights, of which the module holds a
    rounded copy (ZeRO-2) or nothing at all (ZeRO-3).
    """
    state = dict(plugin.state_dict())
    state |= {name: _gathered(parameter) for name, parameter in plugin.named_parameters()}
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def independent_copy(plugin: Plugin) -> Plugin:
    """The plug-in as it is now, on the CPU, in evaluation mode; it shares nothing with ``plugin``.

    A deep copy would share the hooks that fetch shards.
    """
    copy = Plugin(plugin.spec, plugin.hidden_size, plugin.num_layers)
    copy.base = plugin.base
    copy.load_state_dict(gathered_weights(plugin))
    return copy.eval()


def is_sharded(module: nn.Module) -> bool:
    """Whether processes hold a shard of each parameter (ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def _gathered(parameter: Any) -> Tensor:
    if hasattr(parameter, "_z3_optimizer") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        frozen = not parameter.requires_grad
        parameter.requires_grad_(True)  # DeepSpeed has nothing to tell of one that wants none
        try:
            return safe_get_full_fp32_param(parameter)
        finally:
            parameter.requires_grad_(not frozen)
    if hasattr(parameter, "ds_id"):  # sharded, but no optimiser has been made yet
        from deepspeed.zero import GatheredParameters

        with GatheredParameters(parameter), torch.no_grad():
            return parameter.float().clone()
    return parameter
