"""Cosmos 3: Qwen3-VL under another name, and an edge model with M-RoPE alone."""

from rcp.backbones.qwen3_vl import Qwen3VL
from rcp.backbones.qwen_vl import MRope


class Cosmos3Omni(Qwen3VL):
    model_types = ("cosmos3_omni",)
    title = "Cosmos 3 Omni"
    videos = True


class Cosmos3Edge(MRope):
    model_types = ("cosmos3_edge",)
    title = "Cosmos 3 Edge"
    videos = True
