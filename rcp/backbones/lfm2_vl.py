"""LFM2-VL and LFM3-VL: short convolutions, and full or sliding attention now and then."""

from typing import Any, ClassVar

from torch import Tensor, nn

from rcp.backbones.before_decoder import NO_PADDING_LATER, BeforeDecoder
from rcp.backbones.refused import RUNNING_STATE
from rcp.backbones.unplaced import NO_WIDTH, Unplaced


class Lfm2VL(BeforeDecoder, Unplaced):
    model_types: ClassVar[tuple[str, ...]] = ("lfm2_vl",)
    title = "LFM2-VL"
    only_before = RUNNING_STATE
    limits = f"{NO_WIDTH}; {NO_PADDING_LATER}"

    def blocks(self, layer: int) -> tuple[nn.Module, nn.Module]:
        decoder_layer: Any = self.layers[layer]
        mixer = getattr(decoder_layer, "self_attn", None) or decoder_layer.conv
        return mixer, decoder_layer.feed_forward

    def norm(self, layer: int) -> Any:
        decoder_layer: Any = self.layers[layer]
        return decoder_layer.operator_norm

    def _heads(self, attention: Any, which: str, rows: Tensor) -> Tensor:
        projected = getattr(attention, f"{which}_proj")(rows)
        norm = getattr(attention, f"{which}_layernorm")
        return norm(projected.unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)


class Lfm3VL(Lfm2VL):
    model_types = ("lfm3_vl",)
    title = "LFM3-VL"
    videos = True

    def attends(self, layer: int) -> bool:
        """Each kind of layer has a rotary embedding of its own, and the first ones need none."""
        return False
