"""Stage 2: tower and projector learn to say what a token shows in the decoder's own word vectors.

The target of a token is the sum of the word vectors of its labels. Neighbours enter by vectors of
their own, one per direction and shape: the object left of the star can be found by looking for
the token that says "a star is on my right".
"""

from __future__ import annotations

import logging
from typing import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.labels import PATCH_CLASSES
from data.scenes import COLOURS, DIRECTIONS, LETTERS, SHAPES, Scene
from data.tiny_vlm_training.schedule import make_optimizer, set_rate
from data.tiny_vlm_training.settings import ALIGNMENT, WIDTH
from data.tiny_vlm_training.tower import CLS_WEIGHT, TowerHeads, labelled_batch

log = logging.getLogger(__name__)
# Words of every label value from 1 on; labels without a word are left out of the target.
LABEL_WORDS = {"colour": COLOURS, "shape": (*SHAPES, "dot"), "letter": LETTERS,
               "size": (None, None, "largest"), "odd": ("odd",), "alike": ("1", "2", "3", "4")}

READ_OUT = ("colour", "shape", "letter", *DIRECTIONS, "alike")
READOUT_SCALE = 8.0


def label_vectors(words: torch.Tensor, tokenizer: PreTrainedTokenizerFast,
                  ) -> dict[str, torch.Tensor]:
    """Per label name a table (classes, width) of vectors to add up; row 0, "nothing", is zero."""
    tables = {}
    for name, names in LABEL_WORDS.items():
        tables[name] = torch.zeros(PATCH_CLASSES[name], WIDTH)
        for value, word in enumerate(names, start=1):
            if word is not None:
                tables[name][value] = words[tokenizer.convert_tokens_to_ids(word)]
    # Neighbours get vectors of their own, at right angles to those words and to each other: what
    # overlaps here cannot be told apart by the decoder's search.
    spoken = torch.cat(list(tables.values()))
    spoken = torch.linalg.qr(spoken[spoken.abs().sum(1) > 0].T).Q
    random = torch.randn(WIDTH, len(DIRECTIONS) * len(SHAPES),
                         generator=torch.Generator().manual_seed(7))
    unspoken = torch.linalg.qr(random - spoken @ (spoken.T @ random)).Q.T
    for direction, vectors in zip(DIRECTIONS, unspoken.split(len(SHAPES))):
        tables[direction] = torch.cat([torch.zeros(1, WIDTH), vectors])
    return tables


def targets(labels: torch.Tensor, tables: dict[str, torch.Tensor]) -> torch.Tensor:
    """(n, 144, width) sums of vectors from (n, 144, names) labels."""
    names = list(PATCH_CLASSES)
    parts = [table.to(labels.device)[labels[..., names.index(name)]]
             for name, table in tables.items()]
    return torch.stack(parts).sum(0)


def readout(features: torch.Tensor, labels: torch.Tensor, tables: dict[str, torch.Tensor],
            ) -> tuple[torch.Tensor, dict[str, float]]:
    """How well each label is told apart by the very vectors that the decoder will search for.

    features (n, 144, width), labels (n, 144, names); returns the mean cross entropy over tokens
    that show something, and accuracies by name.
    """
    losses, accuracy = [], {}
    for name in READ_OUT:
        wanted = labels[..., list(PATCH_CLASSES).index(name)]
        shown = (wanted > 0) & (wanted <= len(LABEL_WORDS.get(name, SHAPES)))
        vectors = tables[name][1:len(LABEL_WORDS.get(name, SHAPES)) + 1].to(features.device)
        scores = READOUT_SCALE * features[shown] @ vectors.T
        losses.append(F.cross_entropy(scores, wanted[shown] - 1))
        accuracy[name] = (scores.detach().argmax(-1) == wanted[shown] - 1).float().mean().item()
    return torch.stack(losses).mean(), accuracy


@torch.no_grad()
def _solve_start(projector: nn.Module, features: torch.Tensor, wanted: torch.Tensor) -> None:
    """Start in closed form: rows (n, width) whitened by the first layer, then least squares.

    The tower's raw features are ten times too large and nearly flat in half of their directions;
    from a random start the projector would spend minutes on that alone.
    """
    mean = features.mean(0)
    spectrum, axes = torch.linalg.eigh((features - mean).T.cov())
    whiten = axes @ torch.diag(1 / (spectrum.clamp(min=0).sqrt() + 1.0)) @ axes.T
    projector.linear_1.weight.copy_(whiten)
    projector.linear_1.bias.copy_(-whiten @ mean)
    hidden = projector.act(projector.linear_1(features))
    hidden = torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)
    solution = torch.linalg.lstsq(hidden, wanted).solution
    projector.linear_2.weight.copy_(solution[:-1].T)
    projector.linear_2.bias.copy_(solution[-1])


def align(model: LlavaForConditionalGeneration, heads: TowerHeads,
          tokenizer: PreTrainedTokenizerFast, scenes: Iterator[Scene],
          device: torch.device) -> None:
    """Regress tower and projector onto the targets; the words stay as they are.

    The tower has to move along: what its label heads read off by a soft-max is not yet a sum of
    word vectors that a linear map could give.
    """
    projector, tower = model.model.multi_modal_projector, model.model.vision_tower
    tables = label_vectors(model.get_input_embeddings().weight.detach().cpu(), tokenizer)
    optimizer = make_optimizer([projector, tower, heads], weight_decay=0.0)
    for step in range(ALIGNMENT.steps):
        _, pixels, labels, of_image = labelled_batch(scenes, ALIGNMENT.images, device)
        seen, wanted = tower(pixel_values=pixels), targets(labels, tables)
        features = seen.last_hidden_state[:, 1:]
        if step == 0:
            _solve_start(projector, features.detach().flatten(0, 1), wanted.flatten(0, 1))
        projected = projector(features)
        unexplained = F.mse_loss(projected, wanted) / wanted.var()
        read_loss, read = readout(projected, labels, tables)
        patch_loss, image_loss, _ = heads.losses(seen, labels, of_image)
        set_rate(optimizer, ALIGNMENT.rate, step, ALIGNMENT.warmup, ALIGNMENT.steps, floor=0.02)
        optimizer.zero_grad()
        (unexplained + read_loss + patch_loss + CLS_WEIGHT * image_loss).backward()
        nn.utils.clip_grad_norm_([*tower.parameters(), *projector.parameters()], 1.0)
        optimizer.step()
        if step % 25 == 24:
            log.info("alignment %d unexplained %.3f patch %.3f cls %.3f read out %s",
                     step + 1, unexplained.item(), patch_loss.item(), image_loss.item(),
                     " ".join(f"{name} {value:.2f}" for name, value in read.items()))
