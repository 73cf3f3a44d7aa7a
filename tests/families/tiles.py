"""Families that cut an image into square tiles of a fixed number of tokens, or into none."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaTextConfig,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3VisionConfig,
    LlamaConfig,
    MistralConfig,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PPChart2TableConfig,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    Qwen2Config,
    Qwen3Config,
)

from .case import (
    END,
    HIDDEN,
    IMAGE,
    START,
    VIDEO,
    VOCABULARY,
    Case,
    Media,
    Sample,
    batch,
    by_kind,
    given,
    noise,
    sizes,
    stacked,
    with_large_weights,
)
from .llava import PATCH, SIDE, TOKENS, clip
from .relatives import TILE, padded_tiles, tiles

FRAMES = 3
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH // 2,
}
"""Four times as many patches as there are to be tokens."""


def qianfan_ocr() -> Case:
    config = QianfanOCRConfig(
        vision_config=_TOWER, text_config=Qwen3Config(**sizes()), image_token_id=IMAGE
    )
    model = with_large_weights(QianfanOCRForConditionalGeneration(config))
    return Case(model, tiles(3, TOKENS, marked=False))


def got_ocr2(config_class: Any) -> Case:
    tower = _TOWER | {
        "output_channels": 8,
        "patch_size": PATCH // 4,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
    }
    del tower["intermediate_size"]
    config = config_class(
        vision_config=tower, text_config=Qwen2Config(**sizes()), image_token_index=IMAGE
    )
    model = with_large_weights(GotOcr2ForConditionalGeneration(config))
    return Case(model, tiles(3, TOKENS, marked=False))


def ovis2() -> Case:
    """Indicator tokens are embedded by the visual vocabulary, and are text all the same."""
    config = Ovis2Config(
        vision_config=_TOWER | {"vocab_size": 40, "hidden_stride": 2},
        text_config=Qwen2Config(**sizes()),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[START, TILE, 104, 105, 106],
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
    )
    model = with_large_weights(Ovis2ForConditionalGeneration(config))
    return Case(model, tiles(3, TOKENS, marked=True), never=tuple(range(IMAGE, VOCABULARY)))


def idefics2() -> Case:
    """As many latents as a square has tokens, and yet no square."""
    config = Idefics2Config(
        vision_config=_TOWER,
        perceiver_config={
            "hidden_size": HIDDEN,
            "resampler_n_latents": TOKENS,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config=MistralConfig(**sizes(sliding_window=None)),
        image_token_id=IMAGE,
    )
    model = with_large_weights(Idefics2ForConditionalGeneration(config))
    return Case(model, padded_tiles(tiles(1, TOKENS, marked=False)))


def aria() -> Case:
    config = AriaConfig(
        vision_config=Idefics3VisionConfig(**_TOWER),
        text_config=AriaTextConfig(
            **sizes(moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1)
            | {"intermediate_size": 32}
        ),
        projector_patch_to_query_dict={4 * TOKENS: TOKENS},
        image_token_index=IMAGE,
    )
    model = with_large_weights(AriaForConditionalGeneration(config))
    return Case(model, tiles(1, TOKENS, marked=False))


def perception_lm() -> Case:
    """Its tower is one of timm; CLIP stands in for it, with what the config says of that one."""
    tower = clip()
    tower.patch_size = PATCH // 2
    tower.model_args = {"embed_dim": tower.hidden_size, "ref_feat_shape": [8, 8]}
    config = PerceptionLMConfig(
        vision_config=tower,
        text_config=LlamaConfig(**sizes()),
        projector_pooling_ratio=2,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )

    def media(sample: Sample, number: int, generator: torch.Generator) -> Media:
        """All of a batch's images have as many tiles: their pixels are one tensor."""
        token, several = (VIDEO, FRAMES) if sample.video else (IMAGE, 2)
        return Media(
            [START, *[token] * TOKENS * several, END], noise(generator, 1, several, 3, SIDE, SIDE)
        )

    def make(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
        text, shown = batch(samples, media, padding)
        images, videos = by_kind(samples, shown)
        return text | given(pixel_values=stacked(images), pixel_values_videos=stacked(videos))

    model = with_large_weights(PerceptionLMForConditionalGeneration(config), gain=1.1)
    return Case(model, make, videos=True)


CASES = {
    "qianfan_ocr": qianfan_ocr,
    "got_ocr2": lambda: got_ocr2(GotOcr2Config),
    "pp_chart2table": lambda: got_ocr2(PPChart2TableConfig),
    "ovis2": ovis2,
    "idefics2": idefics2,
    "aria": aria,
    "perception_lm": perception_lm,
}
