"""Tiny random models of the families that are served, as folders with their processors."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from benchmarks.serving.cases import Question, Request

SPECIAL = ("<pad>", "</s>", "<unk>", "<image>", "<video>", "<begin>", "<end>")
SHOWN, VIDEO, BEGIN, END = (SPECIAL.index(name) for name in SPECIAL[3:])
COLOURS = ("red", "green", "blue", "dark", "bright", "pale")
WORDS = ("what", "is", "how", "many", "the", "two", "?", "where", *COLOURS)
PATCH = 8
IMAGE_SIDE = 32
PINPOINTS = [[32, 64], [64, 32], [64, 64], [32, 96]]
SIZES = ((64, 64), (96, 48), (48, 96), (80, 64), (120, 120))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and one a placeholder."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    made.add_special_tokens(list(SPECIAL))
    made.pre_tokenizer = Sequence([WhitespaceSplit(), Split("?", "isolated")])
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>",
                              "vision_bos_token": "<begin>", "vision_eos_token": "<end>"},
    )
    return found


def qwen2_5_vl() -> Any:
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2,
              "out_hidden_size": 64, "patch_size": PATCH, "spatial_merge_size": 2,
              "temporal_patch_size": 2, "window_size": 32, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=_text(), vision_config=vision, **_tokens())
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 1, "num_heads": 2,
              "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    config = Qwen2VLConfig(text_config=_text(), vision_config=vision, **_tokens())
    return Qwen2VLForConditionalGeneration(config)


def qwen3_vl() -> Any:
    vision = {"depth": 3, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2,
              "out_hidden_size": 64, "patch_size": PATCH, "spatial_merge_size": 2,
              "temporal_patch_size": 2, "num_position_embeddings": 64,
              "deepstack_visual_indexes": [0, 1]}
    text = _text(head_dim=32)
    text["rope_parameters"] |= {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_tokens())
    return Qwen3VLForConditionalGeneration(config)


def llava_next() -> Any:
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_vision()), text_config=LlamaConfig(**_plain_text()),
        image_token_index=SHOWN, image_grid_pinpoints=PINPOINTS, vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return LlavaNextForConditionalGeneration(config)


def llava_onevision() -> Any:
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_vision(), vision_use_head=False),
        text_config=Qwen2Config(**_plain_text()), image_token_index=SHOWN,
        video_token_index=VIDEO, image_grid_pinpoints=PINPOINTS, vision_feature_layer=-1,
        vision_feature_select_strategy="full", tie_word_embeddings=False,
    )
    return LlavaOnevisionForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llava_next": llava_next, "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl,
}


def random_questions(folder: Path, count: int) -> list[Question]:
    """``count`` of them, about pictures of several sizes that are written to ``folder``."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number, (width, height) in enumerate(SIZES * 2):
        picture = Image.new("RGB", (6, 6))
        picture.putdata([tuple(draw.randrange(256) for _ in range(3)) for _ in range(36)])
        images.append(folder / f"{number}.png")
        picture.resize((width, height), Image.Resampling.NEAREST).save(images[-1])
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(count)]
    return [Question(text, images[number % len(images)]) for number, text in enumerate(texts)]


def framed(request: Request) -> Request:
    """With each image between the marks that tell where one begins and ends."""
    return replace(request, prompt=request.prompt.replace("<image>", "<begin><image><end>"))


def written(family: str, folder: Path) -> Path:
    """``folder`` with a model of ``family`` whose answers differ from question to question."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4 if "self_attn" in name else 2)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if family in TILED:
        return _with_tiles(family, folder)
    images = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH,
              "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3,
              "image_std": [0.3] * 3, "do_resize": True, "do_rescale": True, "do_normalize": True,
              "size": {"shortest_edge": 1024, "longest_edge": 96 * 96},
              "processor_class": _PROCESSORS[family]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    videos = images | {"video_processor_type": "Qwen2VLVideoProcessor"}
    del videos["image_processor_type"]
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
    return folder


TILED = {"llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}


def _with_tiles(family: str, folder: Path) -> Path:
    name, side = TILED[family], {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    images = {"image_processor_type": f"{name}ImageProcessor", "crop_size": side,
              "size": {"shortest_edge": IMAGE_SIDE} if name == "LlavaNext" else side,
              "image_grid_pinpoints": PINPOINTS, "image_mean": [0.5] * 3, "image_std": [0.3] * 3,
              "do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    own = {"processor_class": f"{name}Processor", "image_token": "<image>"}
    if name == "LlavaNext":
        own |= {"patch_size": PATCH, "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1}
    else:
        own |= {"num_image_tokens": (IMAGE_SIDE // PATCH) ** 2, "video_token": "<video>",
                "vision_feature_select_strategy": "full"}
        videos = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": side}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
    (folder / "processor_config.json").write_text(json.dumps(own))
    return folder


_PROCESSORS = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor",
               "qwen3_vl": "Qwen3VLProcessor"}


def _vision() -> dict[str, Any]:
    return {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": IMAGE_SIDE, "patch_size": PATCH}


def _plain_text() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return _text(rope_parameters=rope, tie_word_embeddings=False)


def _text(**changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10000.0}
    return {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
            "rope_parameters": rope, "pad_token_id": 0, "eos_token_id": 1,
            "bos_token_id": None} | changes


def _tokens() -> dict[str, Any]:
    return {"image_token_id": SHOWN, "video_token_id": VIDEO, "vision_start_token_id": BEGIN,
            "vision_end_token_id": END, "tie_word_embeddings": False}
