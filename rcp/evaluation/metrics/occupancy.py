"""How many tokens each layer of a prefill held."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rcp.attaching.generation_state import plan_of
from rcp.backbones import Backbone


@dataclass(frozen=True)
class Occupancy:
    """Tokens of each sample, padding excluded: ``text`` (B,), ``visual`` (L, B), both long."""

    text: Tensor
    visual: Tensor

    @classmethod
    def of(cls, backbone: Backbone, inputs: dict[str, Any], cache: Any | None) -> "Occupancy":
        """The prefill of ``inputs``; ``cache`` carries its keep plan, None if nothing went."""
        ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
        image = backbone.image_rows(ids, None) & valid
        total = image.sum(1)
        visual = total.expand(len(backbone.layers), -1).clone()
        if cache is not None and total.any():
            plan = plan_of(cache)
            for layer, kept in zip(plan.layers, plan.kept):
                visual[layer:] = kept
        return cls((valid.sum(1) - total).cpu(), visual.cpu())

    @property
    def rows(self) -> list[list[int]]:
        """Per sample, the tokens in each layer."""
        return (self.text + self.visual).T.tolist()
