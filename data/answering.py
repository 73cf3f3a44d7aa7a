"""Answers of a LLaVA folder to conversations about images, with all visual tokens or a few."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import LlavaForConditionalGeneration

from data.kinds.example import IMAGE

BATCH_IMAGES = 50  # in a batch, which has questions of one number of images
Shown = tuple[Sequence[Image.Image], Sequence[tuple[str, str]]]


@torch.no_grad()
def answered(model: LlavaForConditionalGeneration, processor: transformers.ProcessorMixin,
             asked: Sequence[Shown], longest: int, keep: float | None = None, seed: int = 0,
             ) -> list[str]:
    """What is generated, up to ``longest`` tokens, for the last question of each conversation.

    ``asked``: images, and (question, answer) turns whose earlier answers are given; the first
    question has `<image>` for each image. ``keep`` drops all but a random share of the visual
    tokens of a conversation beforehand.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = [""] * len(asked)
    order = sorted(range(len(asked)), key=lambda number: len(asked[number][0]))
    for images, same in groupby(order, key=lambda number: len(asked[number][0])):
        numbers, size = list(same), max(1, BATCH_IMAGES // images)
        for start in range(0, len(numbers), size):
            part = numbers[start:start + size]
            inputs = processor(
                images=[image for number in part for image in asked[number][0]],
                text=[_prompt(processor, asked[number][1]) for number in part],
                padding=True, return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            if keep is not None:
                inputs, length = _drop_randomly(model, inputs, keep, generator), 0
            ids = model.generate(**inputs, max_new_tokens=longest, do_sample=False)[:, length:]
            for number, text in zip(part, processor.batch_decode(ids, skip_special_tokens=True)):
                texts[number] = text.strip()
    return texts


def _prompt(processor: transformers.ProcessorMixin, turns: Sequence[tuple[str, str]]) -> str:
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": _parts(question)})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return processor.apply_chat_template(messages[:-1], add_generation_prompt=True)


def _parts(question: str) -> list[dict[str, str]]:
    """Text and images of a question, in its order."""
    parts: list[dict[str, str]] = []
    for number, text in enumerate(question.split(IMAGE.strip())):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text.strip()}] if text.strip() else []
    return parts


def _drop_randomly(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor],
                   keep: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Inputs as embeddings in which a random share of the image rows is left.

    Rows must have equally many image tokens. The survivors keep their original positions, so that
    only their absence is measured.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    image_token = model.config.image_token_id
    features = model.model.get_image_features(pixel_values=inputs["pixel_values"])
    features = getattr(features, "pooler_output", features)
    embeddings = model.get_input_embeddings()(ids)
    embeddings[ids == image_token] = torch.cat(list(features)).to(embeddings)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    rows = []
    for row in ids:
        image = (row == image_token).nonzero()[:, 0]
        order = torch.randperm(len(image), generator=generator)
        kept = torch.ones(len(row), dtype=torch.bool)
        kept[image[order[max(1, round(keep * len(image))):]]] = False
        rows.append(kept.nonzero()[:, 0])
    index = torch.stack(rows)  # equally many in every row: all rows have as many images
    across = index[..., None].expand(-1, -1, embeddings.shape[-1])
    return {"inputs_embeds": embeddings.gather(1, across),
            "attention_mask": mask.gather(1, index), "position_ids": positions.gather(1, index)}
