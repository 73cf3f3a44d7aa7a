"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: they also hear, and what they hear stays."""

from rcp.backbones.qwen3_vl import Qwen3VL
from rcp.backbones.qwen_vl import MRope

HEAD = "its head runs over the whole prompt"


class Qwen25Omni(MRope):
    model_types = ("qwen2_5_omni_thinker",)
    title = "Qwen2.5-Omni's thinker"
    videos = True
    limits = f"{MRope.limits}; {HEAD}"


class Qwen3Omni(Qwen3VL):
    model_types = ("qwen3_omni_moe_thinker",)
    title = "Qwen3-Omni's thinker"
    videos = True
    limits = f"{Qwen3VL.limits}; {HEAD}"
