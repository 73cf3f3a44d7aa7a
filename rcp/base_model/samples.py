"""A few values of every weight of a model, by which it is known again: cheap to read and to keep.

Weights that are quantised, sharded or elsewhere are left out, as no single value of them can be
read. A weight goes by the name it has without what others have wrapped around it.
"""

import copy
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rcp.backbones.placement import COMPUTED

COUNT = 8
"""Values of a weight, evenly spread, or of a row of an embedding."""

EMBEDDINGS = ("input embedding", "output embedding")
"""How the names of weights with a row for each token begin; the second may be the first."""

Values = dict[str, list[float]]
"""Name of a weight → :data:`COUNT` of its values; of an embedding those of many rows."""

WITHIN = ("base_layer", "original_module", "_orig_mod")
"""Where wrappers (PEFT's around a module, torch.compile's) keep the module itself."""

UNNAMED = (*WITHIN, "vision_model")
"""Parts of a name that not all releases have."""


class Weight(NamedTuple):
    """One parameter or persistent buffer as it lies in memory.

    ``leaf``: its name in its own module. ``adapter``: the PEFT module around that, or None.
    ``by_token``: it has a row for each token of the vocabulary.
    """

    name: str
    leaf: str
    tensor: Tensor
    adapter: Any = None
    by_token: bool = False

    @property
    def is_matrix(self) -> bool:
        """Whether quantisers may have rounded it: they leave vectors and embeddings alone."""
        return self.tensor.dim() > 1 and not self.by_token

    def sampled(self, tensor: Tensor | None = None) -> Tensor:
        """Values of ``tensor``, by default as the weight lies, (n,) fp32."""
        tensor = (self.tensor if tensor is None else tensor).detach()
        if not self.by_token:
            return torch.take(tensor, _spread(tensor.numel(), tensor.device)).float()
        # first the rows that a shorter vocabulary has, too
        rows = tensor[_doubling(len(tensor), tensor.device)]
        return rows.reshape(len(rows), -1)[:, :COUNT].flatten().float()

    def other_form(self) -> list[float] | None:
        """Its values with what PEFT adapters add where it lies without, or the other way round.

        None where there is no adapter, or one that cannot be merged.
        """
        if self.adapter is None:
            return None
        if hasattr(self.adapter, "modules_to_save"):
            module = self.adapter.modules_to_save[self.adapter.active_adapters[0]]
            return self.sampled(getattr(module, self.leaf)).tolist()
        twin = copy.deepcopy(self.adapter)  # of one layer; the model's own stays as it is
        try:
            twin.unmerge() if self.adapter.merged else twin.merge()
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            return None
        return self.sampled(getattr(twin.get_base_layer(), self.leaf)).tolist()


def weights_of(model: Any) -> list[Weight]:
    """The weights of ``model`` that can be read; those of embeddings are named by their side."""
    sides = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {_within(side): name for side, name in zip(sides, EMBEDDINGS) if side is not None}
    found: list[Weight] = []
    _collect(model, "", None, tables, found)
    return found


def values_of(weights: Iterable[Weight]) -> Values:
    """What is sampled of ``weights`` as they lie, read in one transfer from each device."""
    taken = {weight.name: weight.sampled() for weight in weights}
    found: Values = {}
    for device in {values.device for values in taken.values()}:
        here = {name: values for name, values in taken.items() if values.device == device}
        values = torch.cat(list(here.values())).tolist()
        start = 0
        for name, part in here.items():
            found[name] = values[start : start + len(part)]
            start += len(part)
    return found


def _collect(
    module: nn.Module, prefix: str, adapter: Any, tables: dict[nn.Module, str], found: list[Weight]
) -> None:
    """Add the weights of ``module``, whose names begin with ``prefix``, to ``found``."""
    inner = _inner(module)
    if inner is not None:  # what stands beside it is the wrapper's own
        outer = module if "_orig_mod" not in module._modules else adapter
        _collect(inner, prefix, outer, tables, found)
        return
    table = tables.get(module)
    passing = module._non_persistent_buffers_set
    for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is None or leaf in passing or not _is_readable(tensor):
            continue
        name = f"{prefix}{leaf}"
        if table is not None:
            name = table if leaf == "weight" else f"{table} {leaf}"
        by_token = table is not None and tensor.dim() > 0
        found.append(Weight(name, leaf, tensor, adapter, by_token))
    for name, child in module._modules.items():
        if child is not None:
            further = prefix if name in UNNAMED else f"{prefix}{name}."
            _collect(child, further, adapter, tables, found)


def _inner(module: nn.Module) -> nn.Module | None:
    """What ``module`` is a wrapper around, or None."""
    return next((module._modules[name] for name in WITHIN if name in module._modules), None)


def _within(module: Any) -> nn.Module:
    """``module`` without what is wrapped around it."""
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def _is_readable(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter)  # other types pack what they hold
    return plain and tensor.dtype in COMPUTED and tensor.numel() > 0 and not tensor.is_meta


@lru_cache(maxsize=256)
def _spread(count: int, device: torch.device) -> Tensor:
    """Indices of at most :data:`COUNT` of ``count`` values, in the middles of equal parts."""
    parts = min(count, COUNT)
    indices = [(2 * part + 1) * count // (2 * parts) for part in range(parts)]
    return torch.tensor(indices, device=device)


@lru_cache(maxsize=16)
def _doubling(count: int, device: torch.device) -> Tensor:
    """1, 2, 4, ... below ``count``: in a longer vocabulary the same, and some more."""
    return torch.tensor([2**n for n in range(count.bit_length()) if 2**n < count], device=device)
