"""A tiny random LLaVA whose attention matters, and plug-ins for it."""

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from rcp import Plugin, PluginSpec, RepairSpec, StageSpec

IMAGE, PAD, TOKENS = 99, 0, 16


def tiny_llava_model(**text: int) -> nn.Module:
    """Weights are scaled up, so that dropping a token changes the logits by more than 0.1."""
    torch.manual_seed(0)
    text_config = LlamaConfig(
        **{
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 120,
            "pad_token_id": PAD,
            **text,
        }
    )
    vision_config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(3)
    return model


def tiny_inputs(
    questions: tuple[int, ...] = (5, 7), images: tuple[int, ...] = (1, 1), side: str = "left"
) -> dict[str, Tensor]:
    """Rows of ``images[i]`` images and ``questions[i]`` question tokens, padded on ``side``."""
    torch.manual_seed(1)
    rows = []
    for length, count in zip(questions, images):
        row = [1, 5, 6]
        for _ in range(count):
            row += [IMAGE] * TOKENS + [7]
        rows.append(row + torch.randint(10, 90, (length,)).tolist())
    width = max(map(len, rows))
    padded = [
        [PAD] * (width - len(row)) + row if side == "left" else row + [PAD] * (width - len(row))
        for row in rows
    ]
    ids = torch.tensor(padded)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    if sum(images):
        inputs["pixel_values"] = torch.randn(sum(images), 3, 32, 32)
    return inputs


def row_of(inputs: dict[str, Tensor], row: int, images: tuple[int, ...]) -> dict[str, Tensor]:
    """Row ``row`` alone, without its padding."""
    mask = inputs["attention_mask"][row].bool()
    alone = {
        "input_ids": inputs["input_ids"][row, mask][None],
        "attention_mask": inputs["attention_mask"][row, mask][None],
    }
    first = sum(images[:row])
    if images[row]:
        alone["pixel_values"] = inputs["pixel_values"][first : first + images[row]]
    return alone


def text_rows(inputs: dict[str, Tensor]) -> Tensor:
    """(B, T) the valid columns that are no image: their logits mean something."""
    return inputs["attention_mask"].bool() & (inputs["input_ids"] != IMAGE)


def randomised(plugin: Plugin, seed: int = 3) -> Plugin:
    """Every parameter random, so that no branch is silent by its initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in plugin.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise * 0.3)
    return plugin.eval()


RCP_ARGUMENTS = {"inner": 16, "queries": 4, "heads": 2}
COVIPAL_ARGUMENTS = {"inner": 16, "blocks": 2, "heads": 2}
FILM_ARGUMENTS = {"inner": 16, "side": 6, "channels": 8}


def rcp_spec(
    layers: tuple[int, ...] = (1, 3),
    ratios: tuple[float, ...] = (0.5, 0.2),
    repair: tuple[int, ...] = (3, 5),
    selection: str = "top_k",
) -> PluginSpec:
    """RCP in small."""
    return PluginSpec(
        stages=[StageSpec(at, ratio, "rcp", RCP_ARGUMENTS) for at, ratio in zip(layers, ratios)],
        repair=RepairSpec(list(repair), "film", FILM_ARGUMENTS) if repair else None,
        selection=selection,
    )


def attention_spec(
    layers: tuple[int, ...] = (1, 3), ratios: tuple[float, ...] = (0.5, 0.2)
) -> PluginSpec:
    """Top-k by the model's own attention, no repair."""
    return PluginSpec(
        stages=[StageSpec(at, ratio, "question_attention") for at, ratio in zip(layers, ratios)]
    )


def covipal_spec(
    layers: tuple[int, ...] = (0, 3),
    ratios: tuple[float, ...] = (0.5, 0.2),
    repair: tuple[int, ...] = (),
) -> PluginSpec:
    """CoViPAL in small, followed by RCP's stages."""
    spec = rcp_spec(layers, ratios, repair)
    spec.stages[0] = StageSpec(layers[0], ratios[0], "covipal", COVIPAL_ARGUMENTS)
    return spec


REFERENCE_SPECS = {"rcp": rcp_spec, "question_attention": attention_spec, "covipal": covipal_spec}


def reference_plugin(name: str, model: nn.Module, **changes: object) -> Plugin:
    """One of the reference plug-ins, randomised, for ``model``."""
    spec = REFERENCE_SPECS[name](**changes)  # type: ignore[operator]
    return randomised(Plugin.for_model(spec, model))
