"""HyperCLOVA X SEED Think: the tower of Qwen2.5-VL, a decoder of scaled residuals."""

from transformers import (
    HyperCLOVAXConfig,
    HyperCLOVAXVisionV2Config,
    HyperCLOVAXVisionV2ForConditionalGeneration,
    Qwen2_5_VLVisionConfig,
)

from .case import HIDDEN, IMAGE, VIDEO, Case, sizes, with_large_weights
from .mrope import PATCHES, grids


def hyperclovax() -> Case:
    config = HyperCLOVAXVisionV2Config(
        text_config=HyperCLOVAXConfig(
            **sizes(attention_multiplier=0.3, residual_multiplier=0.7, logits_scaling=0.5)
        ),
        vision_config=Qwen2_5_VLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            out_hidden_size=HIDDEN,
            window_size=16,
            fullatt_block_indexes=[1],
            **PATCHES,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = with_large_weights(HyperCLOVAXVisionV2ForConditionalGeneration(config))
    return Case(model, grids(frames_apart=False, typed=False), videos=True)


CASES = {"hyperclovax_vision_v2": hyperclovax}
