"""The thinkers of Qwen's omni models, which are asked nothing by ear here."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from .case import END, HIDDEN, IMAGE, START, VIDEO, VOCABULARY, Case, Sample, with_large_weights
from .mrope import PATCHES, grids, mrope_text, qwen3_vision

EAR = {
    "num_mel_bins": 4,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "d_model": 8,
    "output_dim": HIDDEN,
    "max_source_positions": 8,
    "n_window": 2,
}
TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "audio_token_id": 104,
    "audio_start_token_id": 105,
    "audio_end_token_id": 106,
}
NEVER = tuple(range(IMAGE, VOCABULARY))


def timed(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    """Half a second passes from frame to frame of a video."""
    made = grids(frames_apart=False, typed=False)(samples, padding)
    if "video_grid_thw" in made:
        made["video_second_per_grid"] = torch.full((len(made["video_grid_thw"]),), 0.5)
    return made


def qwen2_5_omni() -> Case:
    config = Qwen2_5OmniThinkerConfig(
        text_config=mrope_text([2, 2, 2], head_dim=12),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            **PATCHES,
        },
        audio_config=EAR,
        **TOKENS,
    )
    model = with_large_weights(Qwen2_5OmniThinkerForConditionalGeneration(config))
    return Case(model, timed, never=NEVER, videos=True)


def qwen3_omni_moe() -> Case:
    text = mrope_text([4, 2, 2], num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    config = Qwen3OmniMoeThinkerConfig(
        text_config=text,
        vision_config=qwen3_vision(),
        audio_config=EAR | {"downsample_hidden_size": 8},
        **TOKENS,
    )
    model = with_large_weights(Qwen3OmniMoeThinkerForConditionalGeneration(config))
    return Case(model, timed, never=NEVER, videos=True)


CASES = {"qwen2_5_omni_thinker": qwen2_5_omni, "qwen3_omni_moe_thinker": qwen3_omni_moe}
