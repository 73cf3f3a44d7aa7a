"""The training of the second model: steps over a mixture of forms, resumable bit for bit."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.tiny_vlm_training.schedule import make_optimizer, set_rate
from data.tiny_vlm_training.state import load_state, save_state
from data.tiny_world_training.batches import collated, logits
from data.tiny_world_training.forms import FORMS, SEEDS, SPLIT, Form, drawn
from data.tiny_world_training.lessons import Lessons, lesson
from data.tiny_world_training.vocabulary import KNOWN

FIRST = 400  # steps of lessons alone
SECOND = 60  # then steps of the new words alone: their errors would undo what the rest knows
LESSON_RATE, FINAL_LESSON_RATE, FIRST_IMAGES = 1e-3, 0.2, 12
WORD_RATE = 3e-3
RATE, FINAL_RATE, WARMUP = 4e-4, 0.05, 40
TOWER_SHARE = 0.5  # of the decoder's rate, for tower and projector
HEADS_SHARE = 4.0  # likewise, for the read-outs of lessons
LESSON_WEIGHT, IMAGES = 0.3, 3  # of lessons beside the questions
FORMS_A_STEP = 2
MEMORY = 0.9  # of a form's scores from batch to batch
RESERVE = 0.15  # of its weight is left to a form that makes no mistake
SAVE_SECONDS = 180.0
REPORT = 20  # steps between lines of the curve


@dataclass
class Progress:
    """Batches and running means by form; ``right``: conversations without one wrong token."""

    step: int = 0
    batches: dict[str, int] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)
    lessons: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, right: float, tokens: float, loss: float) -> None:
        """Count one batch of a form."""
        self.batches[name] = self.batches.get(name, 0) + 1
        for means, value in ((self.right, right), (self.tokens, tokens), (self.loss, loss)):
            _follow(means, name, value)

    def learned(self, met: dict[str, float]) -> None:
        """Count one lesson."""
        for name, value in met.items():
            _follow(self.lessons, name, value)

    def shares(self, forms: dict[str, Form]) -> np.ndarray:
        """How likely each form is: forms that are known get less."""
        weights = np.array([form.weight * (RESERVE + (1 - RESERVE) * min(
            1.0, 2 * (1 - self.right.get(name, 0.0)))) for name, form in forms.items()])
        return weights / weights.sum()


def _follow(means: dict[str, float], name: str, value: float) -> None:
    means[name] = MEMORY * means.get(name, value) + (1 - MEMORY) * value


class WorldTraining:
    """Trains ``model`` in place for ``steps`` steps, from the state in ``folder`` if it has one.

    ``folder`` holds `state.pt` and `curve.jsonl`. The batches of a step follow from the seed, the
    step and the scores so far, all of which the state has: a run that was cut goes on as if it had
    not been. With more ``steps`` than before, the cosine is stretched to the new end.
    """

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast,
                 folder: Path, steps: int, seed: int, forms: dict[str, Form] = FORMS) -> None:
        torch.manual_seed(seed)
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.steps, self.seed, self.forms = steps, seed, forms
        self.progress = Progress()
        self.optimizer = make_optimizer([model.model.language_model, model.lm_head])
        self.lessons = Lessons(model, tokenizer)
        for modules in ([model.model.vision_tower, model.model.multi_modal_projector],
                        self.lessons.heads):
            for group in make_optimizer(modules).param_groups:
                self.optimizer.add_param_group(group)
        self._resume(load_state(folder / "state.pt"))

    def run(self, until: int, minutes: float = math.inf) -> None:
        """Train to the step ``until``, or for so many minutes; then save.

        Without a step to train, no file is touched: another process may be at it.
        """
        if self.progress.step >= until or minutes <= 0:
            return
        started = saved = time.monotonic()
        self._cut_curve()
        self.model.train()
        while self.progress.step < until and time.monotonic() - started < 60 * minutes:
            self._step()
            if self.progress.step % REPORT == 0:
                self._report(time.monotonic() - started)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    def save(self) -> None:
        """Write the state, atomically."""
        save_state(self.folder / "state.pt", model=self.model.state_dict(),
                   lessons=self.lessons.state_dict(), optimizer=self.optimizer.state_dict(),
                   progress=vars(self.progress), seed=self.seed)

    def _step(self) -> None:
        self._set_rates()
        self.optimizer.zero_grad()
        if self.progress.step < FIRST:
            self._learn_to_see(1.0, FIRST_IMAGES)
        elif self.progress.step < FIRST + SECOND:
            self._answer()
            self._keep_all_but_new_words()
        else:
            self._answer()
            self._learn_to_see(LESSON_WEIGHT, IMAGES)
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.progress.step += 1

    def _set_rates(self) -> None:
        step = self.progress.step
        if step < FIRST:  # the decoder has no gradient then, and stays as it is
            set_rate(self.optimizer, LESSON_RATE, step, WARMUP, FIRST, FINAL_LESSON_RATE)
            return
        step -= FIRST
        if step < SECOND:
            set_rate(self.optimizer, WORD_RATE, step, 5, SECOND)
            return
        set_rate(self.optimizer, RATE, step - SECOND, WARMUP, self.steps - FIRST - SECOND,
                 FINAL_RATE)
        for share, groups in ((TOWER_SHARE, slice(2, 4)), (HEADS_SHARE, slice(4, 6))):
            for group in self.optimizer.param_groups[groups]:
                group["lr"] *= share

    def _answer(self) -> None:
        step = self.progress.step
        rng = np.random.default_rng([self.seed, step, 4])
        many = min(FORMS_A_STEP, len(self.forms))
        chosen = rng.choice(list(self.forms), many, replace=False,
                            p=self.progress.shares(self.forms)).tolist()
        for name in chosen:
            batch = collated(self.tokenizer, drawn(self.forms[name], self.seed, step))
            said, labels = logits(self.model, batch)
            loss = F.cross_entropy(said, labels)
            (loss / many).backward()
            hit = said.argmax(-1) == labels
            wrong = batch.answers[~hit].unique().numel()
            self.progress.add(name, 1 - wrong / (int(batch.answers.max()) + 1),
                              hit.float().mean().item(), loss.item())

    def _keep_all_but_new_words(self) -> None:
        tables = [self.model.get_input_embeddings().weight, self.model.lm_head.weight]
        for parameter in self.model.parameters():
            if not any(parameter is table for table in tables):
                parameter.grad = None
        for table in tables:
            table.grad[:KNOWN] = 0

    def _learn_to_see(self, weight: float, images: int) -> None:
        given = lesson(SPLIT, (self.seed + 1) * SEEDS + self.progress.step, images)
        loss, met = self.lessons.loss(self.model, given)
        (weight * loss).backward()
        self.progress.learned(met)

    def _report(self, seconds: float) -> None:
        """One line of the curve: means by form, so far, in this session's seconds."""
        line: dict[str, Any] = {"step": self.progress.step, "seconds": round(seconds, 1),
                                "rate": self.optimizer.param_groups[0]["lr"]}
        for name in ("right", "tokens", "loss", "lessons", "batches"):
            line[name] = {form: round(value, 4)
                          for form, value in sorted(getattr(self.progress, name).items())}
        with open(self.folder / "curve.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{line['step']} {seconds:.0f}s "
              + " ".join(f"{name} {value:.2f}" for name, value in (line["right"] | line["lessons"]
                                                                   ).items()),
              flush=True)

    def _resume(self, state: dict[str, Any] | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if state is None:
            return
        if state["seed"] != self.seed:
            raise SystemExit(f"{self.folder} was begun with --seed {state['seed']}: go on with it, "
                             "or name another folder with --state.")
        self.model.load_state_dict(state["model"])
        self.lessons.load_state_dict(state["lessons"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _cut_curve(self) -> None:
        """Leave out lines behind the state: their steps are done again."""
        path = self.folder / "curve.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines(keepends=True)
                    if line.endswith("\n") and json.loads(line)["step"] <= self.progress.step]
            temporary = path.with_suffix(".writing")
            temporary.write_text("".join(kept))
            os.replace(temporary, path)
