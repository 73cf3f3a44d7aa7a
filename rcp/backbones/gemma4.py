"""Gemma 4: two kinds of attention, images seen both ways; or keys that layers share, and not."""

from typing import Any

from torch import Tensor

from rcp.backbones.base import Arguments, Rope
from rcp.backbones.unplaced import NO_WIDTH, Unplaced
from rcp.errors import UserError

INSIDE = {
    "num_kv_shared_layers": "has layers that reuse the keys of an earlier layer, which may hold "
    "other tokens",
    "hidden_size_per_layer_input": "gives each layer embeddings of the prompt's tokens, which "
    "dropping inside does not shorten",
}
"""What of its configuration leaves a shorter prompt alone, unless it is zero, and why."""


class Gemma4(Unplaced):
    model_types = ("gemma4", "gemma4_unified")
    title = "Gemma 4, Gemma 4 Unified"
    videos = True
    limits = (
        f"with shared keys or per-layer embeddings before the decoder alone, and only where images "
        f"are not seen both ways, and then its last layers compute all rows left, where alone they "
        f"compute the last one; not with experts; {NO_WIDTH}; positions are repacked there alone"
    )
    by_row = ("per_layer_inputs",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = self.text_config
        given = [name for name in INSIDE if getattr(config, name, 0)]
        self.bidirectional = config.use_bidirectional_attention is not None  # type: ignore[misc]
        self.only_before = INSIDE[given[0]] if given else ""  # type: ignore[misc]
        if given and self.bidirectional:
            raise _unfit(model, given[0], f"{self.only_before}, and sees images both ways")
        if getattr(config, "enable_moe_block", False):
            raise _unfit(
                model,
                "enable_moe_block",
                "has experts beside its MLP, which are no block that a stage can watch",
            )

    @property
    def takes_shorter_prompts(self) -> bool:
        return bool(self.only_before) or super().takes_shorter_prompts

    def with_all_rows(self, arguments: Arguments) -> Arguments:
        """Layers that share keys compute the last ``logits_to_keep`` rows alone, where it is said.
        """
        return {name: value for name, value in arguments.items() if name != "logits_to_keep"}

    def flops_beside(self, layer: int) -> int:
        """Of each row the embeddings of the layer: made, gated, taken in."""
        width = getattr(self.text_config, "hidden_size_per_layer_input", 0) or 0
        return 2 * self.hidden_size * 3 * width

    def attends(self, layer: int) -> bool:
        """A shorter prompt has no embedding of positions to show: each kind of layer has its own.
        """
        return not self.only_before and super().attends(layer)

    def rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        turned = self.rotary(layer)
        return turned(query, *rope), turned(key, *rope)


def _unfit(model: Any, name: str, reason: str) -> UserError:
    value = getattr(model.config.get_text_config(), name)
    return UserError(
        f"{type(model).__name__} {reason} ({name}={value}). Choose a size of it without them, or a "
        f"model of another family."
    )
