"""Stage 3: the decoder learns to answer, by a curriculum, and grows to its full depth."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.drawing import draw_scenes
from data.labels import stack_labels
from data.questions import QUESTION_TYPES, QuestionSampler
from data.scenes import sample_scenes
from data.tiny_vlm_training.guide import Guide, cell_of, key_of
from data.tiny_vlm_training.model import grow
from data.tiny_vlm_training.packing import IGNORE, SLOT, Packed, encode_question, packed_logits
from data.tiny_vlm_training.projector import readout
from data.tiny_vlm_training.schedule import make_optimizer, set_rate
from data.tiny_vlm_training.settings import DECODER_LAYERS, PHASES, Phase
from data.tiny_vlm_training.state import load_state, save_state
from data.tiny_vlm_training.tower import CLS_WEIGHT, TowerHeads, to_pixels

log = logging.getLogger(__name__)
PREFIX = ("<s>", "USER", ":")
REPORT = 25  # steps between reports, and the window that a phase's goal looks at
LABEL_WEIGHT = 0.5  # of the tower's own losses while it is trained along
Publish = Callable[[LlavaForConditionalGeneration], None]
FILLERS = {"what", "is", "the", "a", "on", "of", "object", "objects", "?", "one", "out", "are",
           "how", "or"}


def key_words(text: str) -> str:
    """A question cut down to what matters, e.g. "colour left star"; what is asked comes first."""
    words = text.split()
    return " ".join(word for index, word in enumerate(words)
                    if word not in FILLERS and (word != "letter" or index == 1))


@dataclass
class Batch:
    """Pixels (n, 3, 96, 96), tower labels, packed questions; per question its type, and the key
    and cell that the guide wants."""

    pixels: torch.Tensor
    patch_labels: torch.Tensor
    image_labels: torch.Tensor
    packed: Packed
    types: list[str]
    keys: torch.Tensor
    cells: torch.Tensor


class BatchMaker:
    """Fresh scenes and questions for a phase."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int,
                 device: torch.device) -> None:
        self.tokenizer, self.phase, self.device = tokenizer, phase, device
        self.scenes = sample_scenes("train", seed)
        self.sampler = QuestionSampler(
            seed, {name: QUESTION_TYPES[name].weight for name in phase.types})
        self.generator = torch.Generator().manual_seed(seed)

    def favour(self, accuracy: dict[str, float]) -> None:
        """Ask more of what is not yet known."""
        for name in self.sampler.weights:
            wrong = 1.0 - accuracy.get(name, 0.0)
            self.sampler.weights[name] = QUESTION_TYPES[name].weight * (0.2 + min(1.0, 3 * wrong))

    def make(self) -> Batch:
        """One batch; slots that a scene cannot fill stay empty."""
        scenes = list(islice(self.scenes, self.phase.images))
        rows, labels, types, keys, cells = [], [], [], [], []
        for scene in scenes:
            questions = self.sampler.sample(scene, self.phase.questions)
            short = torch.rand(len(questions), generator=self.generator) < self.phase.short_share
            encoded = [encode_question(self.tokenizer, key_words(q.text), q.answer, "") if cut
                       else encode_question(self.tokenizer, q.text, q.answer)
                       for q, cut in zip(questions, short.tolist())]
            empty = self.phase.questions - len(questions)
            encoded += [([self.tokenizer.pad_token_id] * SLOT, [IGNORE] * SLOT)] * empty
            rows.append([i for ids, _ in encoded for i in ids])
            labels.append([i for _, wanted in encoded for i in wanted])
            types += [q.type for q in questions]
            asked = [key_of(q.text) for q in questions]
            keys += asked
            cells += [cell_of(key, scene) for key in asked]
        patches, images = stack_labels(scenes)
        packed = Packed(torch.tensor(rows).to(self.device), torch.tensor(labels).to(self.device))
        return Batch(to_pixels(torch.from_numpy(draw_scenes(scenes)).to(self.device)),
                     torch.from_numpy(patches).to(self.device),
                     torch.from_numpy(images).to(self.device), packed, types,
                     torch.tensor(keys).to(self.device), torch.tensor(cells).to(self.device))


@dataclass
class Score:
    """Accuracy by type over the last REPORT steps."""

    hits: dict[str, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=REPORT)))

    def add(self, types: list[str], right: list[bool]) -> None:
        """Count one batch."""
        by_type = defaultdict(list)
        for name, hit in zip(types, right):
            by_type[name].append(float(hit))
        for name, values in by_type.items():
            self.hits[name].append(sum(values) / len(values))

    def accuracy(self) -> dict[str, float]:
        """Mean by type."""
        return {name: sum(values) / len(values) for name, values in self.hits.items()}


def train_step(model: LlavaForConditionalGeneration, heads: TowerHeads, batch: Batch,
               prefix: list[int], train_tower: bool, guide: Guide | None,
               tables: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[bool]]:
    """The loss of one batch, and which answers were right."""
    with torch.set_grad_enabled(train_tower):
        seen = model.model.vision_tower(pixel_values=batch.pixels)
        features = model.model.multi_modal_projector(seen.last_hidden_state[:, 1:])
    logits, labels = packed_logits(model, prefix, features, batch.packed)
    loss = F.cross_entropy(logits, labels)
    # Labelled rows come in pairs: the row that predicts the answer, then the one that ends it.
    right = (logits[::2].argmax(-1) == labels[::2]).tolist()
    if guide is not None:
        # Of the two labelled rows of a question the first is the one that answers.
        labelled = batch.packed.labels != IGNORE
        answer_rows = labelled & labelled.roll(-1, 1)
        loss = loss + guide.loss(answer_rows, batch.keys, batch.cells)
    if train_tower:
        patch_loss, image_loss, _ = heads.losses(seen, batch.patch_labels, batch.image_labels)
        # Without its read-out kept up, what neighbours show fades from the tokens again.
        read_loss, _ = readout(features, batch.patch_labels, tables)
        loss = loss + LABEL_WEIGHT * (read_loss + patch_loss + CLS_WEIGHT * image_loss)
    return loss, right


def _optimizer(model: LlavaForConditionalGeneration, heads: TowerHeads) -> torch.optim.AdamW:
    """Groups 0, 1: decoder and words; groups 2, 3: tower, projector and label heads."""
    optimizer = make_optimizer([model.model.language_model, model.lm_head])
    slow = [model.model.vision_tower, model.model.multi_modal_projector, heads]
    for group in make_optimizer(slow).param_groups:
        optimizer.add_param_group(group)
    return optimizer


def train_decoder(model: LlavaForConditionalGeneration, heads: TowerHeads,
                  tokenizer: PreTrainedTokenizerFast, tables: dict[str, torch.Tensor], path: Path,
                  seed: int, device: torch.device, publish: Publish,
                  ) -> LlavaForConditionalGeneration:
    """Run all phases from `path`'s state if there is one; tables: see label_vectors.

    `publish` is called with the model whenever the state of a model of full depth was saved.
    """
    state = load_state(path) or {"phase": 0, "step": 0}
    if "model" in state:
        layers = PHASES[state["phase"]].layers
        model = model if len(model.model.language_model.layers) == layers else grow(
            model, tokenizer, layers)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
    optimizer, depth = _optimizer(model, heads), len(model.model.language_model.layers)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    for index in range(state["phase"], len(PHASES)):
        phase = PHASES[index]
        if phase.layers != depth:
            # The moments of the old parameters are dropped: the warm-up rebuilds them.
            model, depth = grow(model, tokenizer, phase.layers), phase.layers
            optimizer = _optimizer(model, heads)
        start = state["step"] if index == state["phase"] else 0
        guide = Guide(model, tables) if phase.guided else None
        try:
            _run_phase(model, heads, tokenizer, optimizer, guide, tables, index, start, path,
                       seed, device, publish)
        finally:
            if guide is not None:
                guide.remove()
    return model


def _run_phase(model: LlavaForConditionalGeneration, heads: TowerHeads,
               tokenizer: PreTrainedTokenizerFast, optimizer: torch.optim.AdamW,
               guide: Guide | None, tables: dict[str, torch.Tensor], index: int, start: int,
               path: Path, seed: int, device: torch.device, publish: Publish) -> None:
    phase, score, clock = PHASES[index], Score(), time.time()
    # The stream of a resumed phase starts at a place of its own, not at scenes seen before.
    maker = BatchMaker(tokenizer, phase, seed + 1_000_003 * index + start, device)
    prefix = tokenizer.convert_tokens_to_ids(list(PREFIX))
    parameters = [*model.parameters(), *heads.parameters()]
    for step in range(start, phase.steps):
        batch = maker.make()
        set_rate(optimizer, phase.rate, step - start if step < start + phase.warmup else step,
                 phase.warmup, phase.steps, phase.final_rate)
        for group in optimizer.param_groups[2:]:
            group["lr"] *= phase.tower_rate / phase.rate
        loss, right = train_step(model, heads, batch, prefix, phase.tower_rate > 0, guide,
                                 tables)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        score.add(batch.types, right)
        if step % REPORT == REPORT - 1 or step + 1 == phase.steps:
            accuracy = score.accuracy()
            log.info("%s %d %.0fs loss %.3f %s", phase.name, step + 1, time.time() - clock,
                     loss.item(), " ".join(f"{k} {v:.2f}" for k, v in sorted(accuracy.items())))
            maker.favour(accuracy)
            done = step + 1 - start >= REPORT and min(accuracy.values()) >= phase.goal
            if step % 100 == 99 or done or step + 1 == phase.steps:
                save_state(path, model=model.state_dict(), heads=heads.state_dict(),
                           optimizer=optimizer.state_dict(), phase=index, step=step + 1)
                if phase.layers == DECODER_LAYERS:
                    publish(model)
            if done:
                return
