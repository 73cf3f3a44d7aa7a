"""Qwen3-VL and its mixture of experts: M-RoPE, and visual features added after the first layers."""

from typing import ClassVar

from rcp.backbones.deepstack import Deepstack
from rcp.backbones.qwen_vl import MRope


class Qwen3VL(Deepstack, MRope):
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl", "qwen3_vl_moe")
    title = "Qwen3-VL, Qwen3-VL-MoE"
    videos = True
