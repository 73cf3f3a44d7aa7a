"""HyperCLOVA X SEED Think: the tower of Qwen2.5-VL, a decoder with plain positions."""

from rcp.backbones.unplaced import Unplaced


class HyperClovaX(Unplaced):
    model_types = ("hyperclovax_vision_v2",)
    title = "HyperCLOVA X SEED Think"
    videos = True
