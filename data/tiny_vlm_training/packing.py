"""Many questions on one image in a single sequence, each seeing the image and itself only.

Layout: `<s> USER : <image>*144` (the prefix, 147 rows), then one slot of SLOT rows per question.
Position ids restart after the prefix in every slot, so a packed question is computed exactly as
it would be in a conversation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.scenes import PATCHES

TOKENS = PATCHES * PATCHES
SLOT = 14  # the longest question, "ASSISTANT :" and the answer
IGNORE = -100


@dataclass
class Packed:
    """ids, labels: (n, q * SLOT); a label stands on the row that predicts it."""

    ids: torch.Tensor
    labels: torch.Tensor


def encode_question(tokenizer: PreTrainedTokenizerFast, text: str, answer: str,
                    ending: str = " ASSISTANT :") -> tuple[list[int], list[int]]:
    """SLOT ids and labels of one question; the answer and the end of text are labelled."""
    prompt = tokenizer.convert_tokens_to_ids((text + ending).split())
    answer_id = tokenizer.convert_tokens_to_ids(answer)
    ids = [*prompt, answer_id]
    spare = SLOT - len(ids)
    if spare < 0:
        raise ValueError(f"{text!r} needs {len(ids)} tokens, a slot has {SLOT}.")
    labels = [IGNORE] * (len(prompt) - 1) + [answer_id, tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * spare, labels + [IGNORE] * spare


def packed_mask(questions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (1, 1, S, S), True where a row may look, and position ids (1, S).

    Padding sits at the end of its slot, where causality already hides it.
    """
    prefix = 3 + TOKENS
    slot = torch.cat([torch.full((prefix,), -1),
                      torch.arange(questions).repeat_interleave(SLOT)]).to(device)
    rows = torch.arange(len(slot), device=device)
    same = (slot[:, None] == slot[None, :]) | (slot[None, :] == -1)
    mask = same & (rows[:, None] >= rows[None, :])
    within = prefix + torch.arange(SLOT, device=device).repeat(questions)
    positions = torch.cat([rows[:prefix], within])
    return mask[None, None], positions[None]


def packed_embeddings(model: LlavaForConditionalGeneration, prefix: list[int],
                      features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(n, S, width) input rows from image tokens (n, 144, width) and slot ids (n, q * SLOT)."""
    embed = model.get_input_embeddings()
    start = embed(torch.tensor(prefix, device=ids.device)).expand(len(ids), -1, -1)
    return torch.cat([start, features, embed(ids)], 1)


def packed_logits(model: LlavaForConditionalGeneration, prefix: list[int],
                  features: torch.Tensor, batch: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (labelled rows, vocabulary) and their labels, in order of image, slot, row."""
    questions = batch.ids.shape[1] // SLOT
    mask, positions = packed_mask(questions, batch.ids.device)
    rows = packed_embeddings(model, prefix, features, batch.ids)
    hidden = model.model.language_model(
        inputs_embeds=rows, attention_mask=mask, position_ids=positions,
        use_cache=False).last_hidden_state[:, len(prefix) + TOKENS:]
    labelled = batch.labels != IGNORE
    return model.lm_head(hidden[labelled]), batch.labels[labelled]
