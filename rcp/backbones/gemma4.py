"""Gemma 4 where every layer has keys of its own: two kinds of attention, images seen both ways."""

from typing import Any

from torch import Tensor

from rcp.backbones.base import Rope
from rcp.backbones.unplaced import NO_WIDTH, Unplaced
from rcp.errors import UserError

REASONS = {
    "num_kv_shared_layers": "has layers that reuse the keys of an earlier layer, which may hold "
    "other tokens",
    "hidden_size_per_layer_input": "gives each layer embeddings of the prompt's tokens, which "
    "dropping does not shorten",
    "enable_moe_block": "has experts beside its MLP, which are no block that a stage can watch",
}
"""What of its configuration must be zero, and why."""


class Gemma4(Unplaced):
    model_types = ("gemma4", "gemma4_unified")
    title = "Gemma 4, Gemma 4 Unified"
    videos = True
    limits = (
        f"not with shared keys, per-layer embeddings or experts; {NO_WIDTH}; positions are not "
        f"repacked"
    )
    bidirectional = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        for name, reason in REASONS.items():
            if getattr(self.text_config, name, 0):
                raise UserError(
                    f"{type(model).__name__} {reason} ({name}={getattr(self.text_config, name)}). "
                    f"Choose a size of it without them, or a model of another family."
                )

    def rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        turned = self.rotary(layer)
        return turned(query, *rope), turned(key, *rope)
