"""Which tokens a prefill held, sample by sample."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcp.attaching.generation_state import plan_of
from rcp.backbones import Backbone

Indices = NDArray[np.int32]
"""(K,): rising numbers of some of a sample's visual tokens, counted from 0 as they entered."""


@dataclass(frozen=True)
class Occupancy:
    """One sample's tokens, padding excluded: ``text`` and ``visual`` ones as it came.

    Of its visual tokens those in ``kept[i]`` are alive from layer ``layers[i]`` on, all before the
    first of these; both are empty where nothing is dropped.
    """

    text: int
    visual: int
    layers: tuple[int, ...] = ()
    kept: tuple[Indices, ...] = ()

    def visual_rows(self, depth: int) -> list[int]:
        """The visual tokens in each of ``depth`` layers."""
        rows = [self.visual] * depth
        for layer, kept in zip(self.layers, self.kept):
            rows[layer:] = [len(kept)] * (depth - layer)
        return rows

    def rows(self, depth: int) -> list[int]:
        """All tokens in each of ``depth`` layers."""
        return [self.text + visual for visual in self.visual_rows(depth)]


def occupancies(
    backbone: Backbone, inputs: dict[str, Any], cache: Any | None, layers: tuple[int, ...] = ()
) -> list[Occupancy]:
    """Of each sample in the prefill of ``inputs``.

    ``cache`` carries the keep plan of a plug-in that prunes at ``layers``; None if nothing went.
    """
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    image = backbone.image_rows(ids, None) & valid
    visual = image.sum(1).tolist()
    text = [here - shown for here, shown in zip(valid.sum(1).tolist(), visual)]
    if cache is None or not layers:
        return [Occupancy(*counts) for counts in zip(text, visual)]
    if not any(visual):  # no plan was made of text alone
        nothing = tuple(np.zeros(0, np.int32) for _ in layers)
        return [Occupancy(own, 0, layers, nothing) for own in text]
    plan = plan_of(cache)
    alive, columns = plan.alive.cpu().numpy(), plan.visual.cpu().numpy()
    found = []
    for row, counts in enumerate(zip(text, visual)):
        kept = alive[:, row, columns[row]]  # (S, N)
        stages = tuple(np.flatnonzero(stage).astype(np.int32) for stage in kept)
        found.append(Occupancy(*counts, plan.layers, stages))
    return found
