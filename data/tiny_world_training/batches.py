"""Groups as rows of the decoder: images once, then every conversation as if it were alone.

A row is `<s> USER : ` and the images of a group with what stands between them (the prefix), then
one slot a conversation. A slot sees the prefix and itself, and its positions go on from the
prefix, so that it is computed exactly as it would be by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.tiny_vlm_training.packing import IGNORE, TOKENS
from data.tiny_vlm_training.processor import BOS, IMAGE
from data.tiny_vlm_training.tower import to_pixels
from data.tiny_world_training.forms import Group, Turns
from data.tiny_world_training.shrinking import shrunk

PREFIX, PADDING = -1, -2  # what is no slot


@dataclass
class Batch:
    """ids, labels, slots, positions: (groups, rows); a label stands on the row that predicts it.

    pixels: (images, 3, 96, 96), those of a group one after the other.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """(groups, 1, rows, rows), 0 where a row may look, else minus infinity.

        Not as booleans, which every layer would turn into this anew.
        """
        here, there = self.slots[:, :, None], self.slots[:, None, :]
        causal = torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool).tril()
        seen = (((here == there) | (there == PREFIX)) & causal)[:, None]
        return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))

    @property
    def answers(self) -> torch.Tensor:
        """(labelled rows,) the number of the conversation that each belongs to."""
        groups, rows = (self.labels != IGNORE).nonzero(as_tuple=True)
        most = int(self.slots.max()) + 1
        _, numbers = (groups * most + self.slots[groups, rows]).unique(return_inverse=True)
        return numbers


def _encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [i for number in ids for i in [number] * (TOKENS if number == image else 1)]


def _slot(tokenizer: PreTrainedTokenizerFast, turns: Turns) -> tuple[list[int], list[int]]:
    """Ids and labels of a conversation whose first question has lost its images."""
    ids: list[int] = []
    labels: list[int] = []
    for number, (question, answer) in enumerate(turns):
        asked = _encoded(tokenizer, f"{'USER: ' if number else ''}{question} ASSISTANT:")
        said = [*_encoded(tokenizer, answer), tokenizer.eos_token_id]
        ids += asked + said
        labels += [IGNORE] * (len(asked) - 1) + said + [IGNORE]
    return ids[:-1], labels[:-1]  # nothing follows the last end


def collated(tokenizer: PreTrainedTokenizerFast, groups: Sequence[Group]) -> Batch:
    """One batch; shorter rows are padded on the right, where causality hides it."""
    rows = []
    for group in groups:
        place = group.asked[0][0][0].rindex(IMAGE) + len(f"{IMAGE}\n")
        ids = _encoded(tokenizer, f"{BOS}USER: {group.asked[0][0][0][:place]}")
        start = len(ids)
        labels, slots, positions = [IGNORE] * start, [PREFIX] * start, list(range(start))
        for number, ((question, answer), *later) in enumerate(group.asked):
            own, wanted = _slot(tokenizer, ((question[place:], answer), *later))
            ids, labels = ids + own, labels + wanted
            slots = slots + [number] * len(own)
            positions = positions + list(range(start, start + len(own)))
        rows.append((ids, labels, slots, positions))
    length = max(len(ids) for ids, *_ in rows)
    empty = (tokenizer.pad_token_id, IGNORE, PADDING, 0)
    parts = (torch.tensor([[*row[part], *[empty[part]] * (length - len(row[part]))]
                           for row in rows]) for part in range(4))
    pixels = np.stack([shrunk(image) for group in groups for image in group.images])
    return Batch(to_pixels(torch.from_numpy(pixels)), *parts)


def logits(model: LlavaForConditionalGeneration, batch: Batch
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (labelled rows, vocabulary) and their labels, by group and row."""
    seen = model.model.vision_tower(pixel_values=batch.pixels).last_hidden_state[:, 1:]
    features = model.model.multi_modal_projector(seen)
    embedded = model.get_input_embeddings()(batch.ids)
    places = (batch.ids == model.config.image_token_id)[..., None]
    embedded = embedded.masked_scatter(places, features)
    hidden = model.model.language_model(
        inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions,
        use_cache=False).last_hidden_state
    labelled = batch.labels != IGNORE
    return model.lm_head(hidden[labelled]), batch.labels[labelled]
