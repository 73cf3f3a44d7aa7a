"""The samples that folders from before 2026-12 hold of their base: two norms and four rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rcp.backbones import Backbone

NORM, ROW = 32, 8
"""Values of a norm, and of a row of the embedding."""


def values_of_before(
    backbone: Backbone, known: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    """The model's values under the names of before, as far as ``known`` has these.

    Which rows of the embedding were taken depended on how many there were. So the rows nearest to
    the known ones are: a vocabulary that has grown since still holds them.
    """
    decoder: Any = backbone.decoder
    norms = {"first norm": lambda: backbone.norm(0), "final norm": lambda: decoder.norm}
    found = {name: norms[name]().weight.flatten()[:NORM] for name in norms.keys() & known.keys()}
    if "embedding" in known:
        table = backbone.model.get_input_embeddings().weight[:, :ROW]
        rows = torch.tensor(known["embedding"], device=table.device)
        found["embedding"] = _nearest(table, rows) if len(table) else table
    return {name: values.float().tolist() for name, values in found.items() if values.numel()}


def _nearest(table: Tensor, rows: Tensor) -> Tensor:
    """Of ``table`` (V, n) the rows nearest to those that stand one behind the other in ``rows``.

    Another number of values than rows can have gets that of one row, so that they differ.
    """
    width = table.shape[1]
    if len(rows) == 0 or len(rows) % width:
        return table[0]
    return table[torch.cdist(rows.view(-1, width), table.float()).argmin(1)].flatten()
