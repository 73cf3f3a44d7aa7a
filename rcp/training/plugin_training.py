"""The training of one plug-in around one frozen model."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.attaching.given_images import given_images, repeated_images
from rcp.attaching.trace import Trace
from rcp.backbones import backbone_for
from rcp.base_model.loading import BaseDtype
from rcp.choosing.relaxation import Relaxation
from rcp.conversations import Batch
from rcp.errors import UserError
from rcp.objectives.losses import Reduce
from rcp.plugin import Plugin
from rcp.training import checkpoint as checkpoints
from rcp.training.curves import TemperatureCurve, budget_target
from rcp.training.data_module import batches_done
from rcp.training.distributed import all_reduce_sum, is_distributed
from rcp.training.frozen_base import load_frozen
from rcp.training.gradient_checkpointing import checkpoint_layers, let_layers_checkpoint
from rcp.training.gradient_shares import gradient_shares
from rcp.training.guided import (
    answers_teach,
    frozen,
    guide_term,
    parts_stand_still,
    refuse_waiting_for_idle_parts,
)
from rcp.training.noise_gate import Denoiser, NoiseGateOptions
from rcp.training.objective import (
    answer_logits,
    loss_terms,
    parts_of_teacher,
    reads_answers,
    term_weights,
)
from rcp.training.optimizer import optimizer_of
from rcp.training.options import LossOptions, OptimizerOptions, PluginOptions
from rcp.training.phases import (
    GuideOptions,
    Moment,
    PolicyOptions,
    RetentionOptions,
    guide_options,
    moment,
    teacher_alone,
)
from rcp.training.policy import Beginning, Price, mean_multiple, policy_terms, times
from rcp.training.retention import retention_terms, retention_weights
from rcp.training.sharded import is_sharded
from rcp.training.short_prompts import refuse_masked_training
from rcp.training.taught import take_pruners
from rcp.training.teacher.passes import Answers
from rcp.training.teacher.teacher import Teacher
from rcp.training.validation import ValidatedTraining

StepOutcome = tuple[dict[str, Tensor], dict[str, float], Trace]
"""Terms of the loss and their weights by name, and what the forward saw."""


class PluginTraining(ValidatedTraining):
    """Trains a plug-in of pruners and a repair adapter; the model around it stays frozen.

    Each step runs the frozen model twice: as it is (the teacher, without gradient) and with the
    plug-in masking tokens softly (the student), or without them where a family loses tokens before
    its decoder alone. Validation generates with the tokens really dropped, as inference does.

    Args:
        base: folder or hub id of the frozen vision-language model
        plugin: the pruning stages, their budget and the repair adapter
        guide: pruners learn from the teacher alone which tokens matter, in a first phase or beside
            the rest; "online" is short for {online: true, share: 1.0}, null for none. All other
            schedules belong to the end-to-end phase, which a first one comes before
        pruners_from: exported plug-in whose pruners this training starts from, where layer, method
            and arguments agree: a guide need then teach them only once; null for fresh ones
        policy: a phase behind the guide's, in which pruners learn from draws of tokens and what the
            answer gains by each; null for none
        noise_gate: the pruner learns from the answers while tokens are mixed with noise, not
            dropped; null for a straight-through gradient
        retention: soft retention at the start of the end-to-end phase; null keeps or drops from
            the start
        dtype: precision the frozen model is loaded in; the plug-in itself is kept in float32
        loss: weights and forms of the loss terms
        temperature: temperature and noise of the soft selection over the run
        optimizer: learning rate, its schedule and the weight decay
        budget_warmup: share of the steps over which the budget target falls from 1 to the
            plug-in's mean ratio; threshold selection only
        max_new_tokens: length of the answers generated in validation
        margin: in training too, drop the tokens ranked beyond this multiple of a stage's count
            instead of masking them, which saves much of the time; null masks them all
        gradient_checkpointing: keep only the inputs of the frozen layers for the backward pass and
            compute the rest again, for a third more time and much less memory
        teacher_cache: folder for what the frozen model computes the same in every run (image
            features, the teacher's answer rows, relevance), which about halves the time of a step;
            made by the first run, or before it by many processes (`python -m rcp label`), shared by
            all with the same base, data and precision; null for none
        cache_images: keep image features there, which take most of the room (`python -m rcp
            estimate` tells); false encodes images anew in every step
        gradient_shares_every: steps between two measurements of each term's share of the
            gradient, which cost one backward pass a term; 0 for never, as with sharded weights
    """

    def __init__(
        self,
        base: str,
        plugin: PluginOptions,
        guide: GuideOptions | Literal["online"] | None = None,
        pruners_from: str | None = None,
        policy: PolicyOptions | None = None,
        noise_gate: NoiseGateOptions | None = None,
        retention: RetentionOptions | None = None,
        dtype: BaseDtype = "float32",
        loss: LossOptions = LossOptions(),
        temperature: TemperatureCurve = TemperatureCurve(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        budget_warmup: float = 0.1,
        max_new_tokens: int = 8,
        margin: float | None = None,
        gradient_checkpointing: bool = False,
        teacher_cache: str | None = None,
        cache_images: bool = True,
        gradient_shares_every: int = 100,
    ) -> None:
        super().__init__()
        _check_least(max_new_tokens=(max_new_tokens, 1), margin=(margin, 1),
                     gradient_shares_every=(gradient_shares_every, 0))
        if not 0 <= budget_warmup <= 1:
            raise UserError(f"model.budget_warmup is {budget_warmup}: give a share from 0 to 1.")
        self.base_dtype = dtype
        self.model, self.processor = load_frozen(base, dtype)
        self.plugin = Plugin.for_model(plugin.spec_for(backbone_for(self.model)), self.model)
        if not any(True for _ in self.plugin.parameters()):
            methods = sorted({stage.method for stage in self.plugin.spec.stages})
            raise UserError(
                f"Nothing can be trained: the pruners ({', '.join(methods)}) have no parameters "
                "and there is no repair adapter. Give model.plugin.repair or lora, or a learned "
                "pruner."
            )
        guide = guide_options(guide)
        refuse_masked_training(
            backbone_for(self.model), self.plugin, guide, optimizer, retention, margin, policy
        )
        if self.plugin.spec.tower is not None and (guide is not None or policy is not None):
            raise UserError(
                "model.plugin.tower and model.guide or model.policy do not go together yet: what "
                "they teach is read off the whole vision tower. Set both to null, so that answers "
                "alone teach, or leave tower out."
            )
        if policy is not None:
            policy.check(guide, pruners_from is not None, self.plugin)
        self.noise_gate, self.denoiser = noise_gate, None
        if noise_gate is not None:
            others = {"guide": guide, "policy": policy, "retention": retention, "margin": margin}
            noise_gate.check(self.plugin, optimizer, others)
            self.denoiser = Denoiser(self.plugin.hidden_size, noise_gate.inner)
        if optimizer.pruners == 0 and not teacher_alone(guide, policy):
            _check_others_train(self.plugin)
        if pruners_from is not None:
            take_pruners(self.plugin, backbone_for(self.model), pruners_from)
        self.pruners_from = pruners_from
        self.guide = guide
        self.guided_layers = guide.pruning(self.plugin.schedule) if guide is not None else ()
        self.policy = policy
        self.beginning = Beginning()
        self.price = Price()
        if retention is not None:
            retention.check(guide)
        self.retention = retention
        self.loss = loss
        self.temperature = temperature
        self.optimizer = optimizer
        self.budget_warmup = budget_warmup
        self.max_new_tokens = max_new_tokens
        self.margin = margin
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            checkpoint_layers(self.model, self.plugin.lora)
        attach(self.model, self.plugin, "soft").remove()  # or says now why it cannot be
        folder = None if teacher_cache is None else Path(teacher_cache)
        self.teacher = Teacher(self.model, self.processor, self.plugin, folder, cache_images)
        self.gradient_shares_every = gradient_shares_every
        self.weights = term_weights(loss, self.plugin)
        self.results: dict[str, float] = {}
        self.strict_loading = False  # a checkpoint holds the plug-in only

    # -- training ------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "PluginTraining":
        """Training mode for the plug-in; dropout in the frozen model stays off."""
        super().train(mode)
        self.model.eval()
        if mode and self.gradient_checkpointing:
            let_layers_checkpoint(backbone_for(self.model))
        return self

    def on_fit_start(self) -> None:
        if parts_stand_still(self.plugin, self.guide, self.policy, self.optimizer.pruners):
            refuse_waiting_for_idle_parts(self.trainer)
        self.train()
        self._seed = torch.initial_seed()
        for part in parts_of_teacher(self.weights, self.guide, self.policy):
            self.teacher.open(part, self.trainer)

    @property
    def _steps(self) -> int:
        return max(1, int(self.trainer.estimated_stepping_batches))

    @property
    def progress(self) -> float:
        """Share of all optimiser steps that are done."""
        return self.global_step / self._steps

    @property
    def moment(self) -> Moment:
        """The phase that training is in, and how far."""
        return self.moment_at(self.global_step)

    def moment_at(self, step: int) -> Moment:
        """The phase at the optimiser step ``step``, and how far it is then."""
        return moment(step / self._steps, self.guide, self.retention, self.policy)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Noise and dropout depend on the batch's number alone: a resumed run repeats them. Not on
        # the step's, which batches accumulated for one would share.
        number = batches_done(self.trainer.fit_loop.epoch_loop.batch_progress)
        torch.manual_seed((self._seed + number * 4096 + self.global_rank) % 2**63)
        images = self.teacher.images(batch, "images")
        if self.moment.phase == "policy":
            terms, weights, seen = self._drawn(batch, images)
        else:
            with given_images(self.model, images):
                terms, weights, seen = self._outcome(batch)
        weighted = {name: weights[name] * term for name, term in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        self._log_step(terms, weighted, loss, seen)
        return loss

    def _outcome(self, batch: Batch) -> StepOutcome:
        """What the guide and the answers teach, whichever of them is at work."""
        guide = self.guide
        if guide is None or not guide.teaches(self.progress):
            # frozen, not merely still: the backward pass then ends at the first repair layer, and
            # they choose as they will at inference, without dropout
            learning = self.optimizer.pruners > 0
            self.plugin.pruners.requires_grad_(learning).train(learning)
            return self._end_to_end(batch, self._answers_of_teacher(batch), learning)
        self.plugin.pruners.requires_grad_(True).train(True)
        layers = self.guided_layers
        beside = guide.online and answers_teach(self.plugin, layers, self.optimizer.pruners)
        attention = () if guide.layer is None else (guide.layer,)
        asked = self._asked_of_teacher if beside else None
        lesson = self.teacher.lesson(batch, layers, attention, asked)
        term = guide_term(self.plugin, guide, layers, lesson, self._reduce)
        if not beside:
            return {"guide": term}, {"guide": 1.0}, lesson.trace
        still = layers if self.optimizer.pruners > 0 else self.plugin.schedule.layers
        with frozen(self.plugin, still):
            terms, weights, seen = self._end_to_end(batch, lesson.answers, learning=False)
        return {"guide": term} | terms, {"guide": 1.0} | weights, seen

    def _drawn(self, batch: Batch, images: Any) -> StepOutcome:
        """What draws of tokens teach, ``images`` being the features of the batch's images."""
        policy = self.policy
        assert policy is not None
        self.plugin.pruners.requires_grad_(True).train(False)  # dropout would draw by other scores
        lowest, highest = policy.budgets(self.moment.progress, self.plugin)
        plugin = self.plugin
        if (lowest, highest) != (plugin.mean_ratio, plugin.mean_ratio):  # else the shares are given
            plugin = plugin.keeping(self._drawn_budget(lowest, highest))
        beginning = self.beginning.of(self.plugin)
        with given_images(self.model, repeated_images(images, policy.group)):
            terms, seen, rewards = policy_terms(
                self.model, plugin, beginning, times(batch, policy.group), policy.group,
                self._reduce, self.price.value,
            )
        if seen.multiples:
            self.price.follow(mean_multiple(plugin, seen, self._reduce))
            self.log("train/price", self.price.value)
        self.log("train/reward", rewards.mean())
        self.log("train/budget", plugin.mean_ratio)
        return terms, {"policy": 1.0, "guide": policy.guide}, seen

    def _end_to_end(
        self, batch: Batch, answers: Answers | None, learning: bool
    ) -> StepOutcome:
        """The student's answers, through the frozen model, beside those of the teacher.

        Noise is for pruners that are ``learning``: the repair of others is to see what they choose.
        """
        now = self.moment
        teacher_logits, teacher = (None, Trace()) if answers is None else answers
        relaxation = Relaxation(
            self.temperature.temperature_at(now.progress),
            self.temperature.noise_at(now.progress) if learning else 0.0,
            margin=self.margin,
            hard=now.phase == "hard",
            denoiser=self.denoiser,
        )
        plugin = self._plugin_of_step()
        with attach(self.model, plugin, "soft", relaxation=relaxation) as handle:
            with handle.trace() as student:
                logits, labels = answer_logits(self.model, batch)
        target = budget_target(now.progress, plugin.mean_ratio, self.budget_warmup)
        terms, mean_ratio = loss_terms(
            plugin,
            self.loss,
            (logits, student),
            (teacher_logits, teacher),
            labels,
            target,
            self._reduce,
        )
        weights = self.weights
        if now.phase == "soft":
            assert self.retention is not None
            terms |= retention_terms(plugin, student, self._reduce)
            weights = weights | retention_weights(self.retention)
        self.log("train/mean_ratio", mean_ratio.detach())
        self.log("train/temperature", relaxation.temperature)
        self.log("train/noise", relaxation.noise)
        return terms, weights, student

    def _plugin_of_step(self) -> Plugin:
        """The plug-in at its budget, or at the one that this step draws, the same on all ranks."""
        if self.plugin.spec.budgets is None:
            return self.plugin
        return self.plugin.at_budget(self._drawn_budget(*self.plugin.spec.budgets))

    def _drawn_budget(self, lowest: float, highest: float) -> float:
        """A mean ratio of this step between the two, log-uniformly; the same on all ranks."""
        draw = random.Random(self._seed + self.global_step * 4096).random()
        return math.exp(math.log(lowest) + draw * math.log(highest / lowest))

    @property
    def _asked_of_teacher(self) -> Sequence[int] | None:
        """The layers whose answer rows a term compares; None where none reads the answers."""
        if not reads_answers(self.weights):
            return None
        repair = self.plugin.repair
        return repair.layers if repair is not None and "repair" in self.weights else ()

    def _answers_of_teacher(self, batch: Batch) -> Answers | None:
        """The frozen model's own logits and statistics, where a term asks for them."""
        asked = self._asked_of_teacher
        return None if asked is None else self.teacher.answers(batch, asked)

    @property
    def _reduce(self) -> Reduce | None:
        return all_reduce_sum if is_distributed() else None

    def _log_step(
        self,
        terms: dict[str, Tensor],
        weighted: dict[str, Tensor],
        loss: Tensor,
        seen: Trace,
    ) -> None:
        self.log("train/loss", loss.detach(), prog_bar=True)
        for name, term in terms.items():
            self.log(f"train/{name}", term.detach())
        for layer, kept in zip(self.plugin.schedule.layers, seen.kept):
            self.log(f"train/kept_from_layer_{layer}", kept.detach().sum(1).mean())
        every = self.gradient_shares_every
        if every and self.global_step % every == 0 and not is_sharded(self.plugin):
            shares = gradient_shares(weighted, list(self.plugin.parameters()))
            for name, share in shares.items():
                self.log(f"train/gradient_share_{name}", share)

    def configure_optimizers(self) -> Any:
        return optimizer_of(
            self.plugin, self.optimizer, self.guide, self.retention, self._steps, self.policy,
            () if self.denoiser is None else self.denoiser.parameters(),
        )

    # -- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoints.keep_plugin_only(checkpoint, self.plugin, self._summary())
        self.beginning.save(checkpoint)
        if self.plugin.spec.count is not None:
            self.price.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoints.give_dimensions(checkpoint)
        checkpoints.check_resumable(checkpoint, self.plugin, backbone_for(self.model))
        beside = {} if self.denoiser is None else self.denoiser.state_dict()
        checkpoints.check_beside(checkpoint, beside)
        self.beginning.load(checkpoint, self.plugin)
        self.price.load(checkpoint)
        summary = checkpoints.trained(checkpoint, checkpoints.WHAT).training
        self.results = dict(summary.get("results", {}))

    def _summary(self) -> dict[str, Any]:
        """What the exported folder says of this training, in plain values."""
        return {
            "steps": self.global_step,
            "dtype": self.base_dtype,
            "data": dict(self.trainer.datamodule.summary),  # type: ignore[attr-defined]
            "guide": asdict(self.guide) if self.guide is not None else None,
            "pruners_from": self.pruners_from,
            "policy": asdict(self.policy) if self.policy is not None else None,
            "noise_gate": asdict(self.noise_gate) if self.noise_gate is not None else None,
            "retention": asdict(self.retention) if self.retention is not None else None,
            "loss": asdict(self.loss),
            "temperature": asdict(self.temperature),
            "optimizer": asdict(self.optimizer),
            "results": dict(self.results),
        }


def _check_least(**given: tuple[float | None, int]) -> None:
    for name, (value, least) in given.items():
        if value is not None and not value >= least:
            raise UserError(f"model.{name} is {value}: give a number of at least {least}.")


def _check_others_train(plugin: Plugin) -> None:
    if all(name.startswith("pruners.") for name, _ in plugin.named_parameters()):
        raise UserError(
            "model.optimizer.pruners is 0, so that the pruners stand still end to end, and the "
            "plug-in has nothing else to train. Give model.plugin.repair or lora, a number above "
            "0, or a guide of share 1, or of what model.policy leaves, which train pruners alone."
        )
