"""LFM3-VL, which came with a later release than LFM2-VL."""

from transformers import (
    Lfm3Config,
    Lfm3VlConfig,
    Lfm3VlForConditionalGeneration,
    Lfm3VlVisionConfig,
)

from .case import IMAGE, VIDEO, Case, sizes, with_large_weights
from .mrope import MERGE, PATCH, TEMPORAL, grids


def lfm3_vl() -> Case:
    """One layer in three attends, to a window or to everything."""
    kinds = ["conv", "sliding_attention", "conv", "conv", "full_attention", "sliding_attention"]
    config = Lfm3VlConfig(
        text_config=Lfm3Config(**sizes(layer_types=kinds, sliding_window=8)),
        vision_config=Lfm3VlVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=TEMPORAL,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        projector_hidden_size=32,
    )
    model = with_large_weights(Lfm3VlForConditionalGeneration(config), gain=1.0)
    return Case(model, grids(frames_apart=False, typed=False), videos=True)


ENTRY_CASES = {"lfm3_vl": lfm3_vl}
