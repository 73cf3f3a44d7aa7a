"""A plug-in filled with the tensors of a file, refused unless they are those it has."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.plugin import Plugin, PluginSpec
from rcp.quoting import plain


def filled(
    spec: PluginSpec, hidden_size: int, num_layers: int, tensors: Mapping[str, Tensor], source: str
) -> Plugin:
    """The plug-in of ``spec`` with ``tensors``, which come from ``source``, in evaluation mode."""
    fitting = checked(tensors, expected(spec, hidden_size, num_layers), source)
    plugin = Plugin(spec, hidden_size, num_layers)
    plugin.load_state_dict(fitting)
    return plugin.eval()


def expected(spec: PluginSpec, hidden_size: int, num_layers: int) -> dict[str, Tensor]:
    """What a plug-in holds, by name; a wrong size costs no memory before a file contradicts it."""
    try:
        with torch.device("meta"):
            return Plugin(spec, hidden_size, num_layers).state_dict()
    except UserError as error:
        if "meta tensor" not in str(error.__context__):
            raise
        # of a method that looks at values while it is made
        return Plugin(spec, hidden_size, num_layers).state_dict()


def checked(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """``tensors`` as ``wanted`` has them; raises ``UserError`` for another name, shape or kind.

    Unknown ones are named in a warning and left out.
    """
    if missing := sorted(set(wanted) - set(tensors)):
        raise UserError(
            f"{len(missing)} of the plug-in's tensors are missing in {source}, first "
            f"'{missing[0]}'. It does not belong to the description that came with it: get both "
            f"anew."
        )
    if unknown := sorted(set(tensors) - set(wanted)):
        warnings.warn(f"Unknown tensors in {source}: {plain(', '.join(unknown))}", stacklevel=4)
    return {name: _as_used(name, tensors[name], value, source) for name, value in wanted.items()}


def _as_used(name: str, tensor: Tensor, wanted: Tensor, source: str) -> Tensor:
    if tensor.dim() == 0 and wanted.shape == (1,):  # a lone number, as it was saved before 2026-11
        tensor = tensor.view(1)
    if tensor.shape != wanted.shape:
        raise UserError(
            f"Tensor '{name}' in {source} is {list(tensor.shape)}, the plug-in's is "
            f"{list(wanted.shape)}. It does not belong to the description that came with it: get "
            f"both anew."
        )
    if tensor.dtype.is_floating_point != wanted.dtype.is_floating_point:
        raise UserError(
            f"Tensor '{name}' in {source} is {tensor.dtype}, the plug-in's is {wanted.dtype}. "
            f"Get the file anew."
        )
    # as it will be used: a value may be too large for it, and 8-bit floats cannot be asked
    tensor = tensor.to(wanted.dtype)
    if not tensor.isfinite().all():
        raise UserError(
            f"Tensor '{name}' in {source} holds values that are not finite. Use an earlier "
            f"checkpoint, or train again."
        )
    return tensor
