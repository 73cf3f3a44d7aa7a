"""What the package does on a device, in small: methods, families, trainings, evaluation.

``WORKLOADS`` maps a name to a function of the device's name. Each builds what it needs, so that
one can be run alone.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor

from rcp import (
    LoraSpec,
    Plugin,
    PluginSpec,
    Relaxation,
    RepairSpec,
    StageSpec,
    TowerSpec,
    attach,
)
from rcp.backbones import backbone_for
from rcp.choosing.tokens import predicting
from rcp.choosing.view import LOOKS_BACK
from rcp.evaluation.metrics.dominance import TextDominance
from rcp.evaluation.metrics.occupancy import occupancies
from rcp.evaluation.studies.attention_trend import attention_trends
from rcp.evaluation.studies.diagnosis import diagnose
from rcp.evaluation.studies.horizon import information_by_layer
from rcp.evaluation.studies.schedule_search import agreement
from rcp.objectives import losses
from rcp.objectives.labels import LabelForm, attention_labels, relevance_labels
from rcp.pruners import PRUNERS
from rcp.training.data_module import ConversationDataModule
from rcp.training.options import LossOptions, OptimizerOptions, PluginOptions
from rcp.training.phases import GuideOptions, PolicyOptions, RetentionOptions
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.folder import callbacks
from tests.decoding import generated
from tests.families import FAMILIES, Case, Sample
from tests.families.batches import videos_of
from tests.tiny import (
    COVIPAL_ARGUMENTS,
    FILM_ARGUMENTS,
    IMAGE,
    RCP_ARGUMENTS,
    randomised,
    rcp_spec,
    tiny_inputs,
    tiny_llava_model,
)
from tests.tiny_base import conversation, make_model, make_processor, write_conversations

Inputs = dict[str, Tensor]
Workload = Callable[[str], None]

ARGUMENTS = {"rcp": RCP_ARGUMENTS, "covipal": COVIPAL_ARGUMENTS}
REPAIR = RepairSpec([3, 5], "film", FILM_ARGUMENTS)
REPAIR_LAST = RepairSpec([3], "film", FILM_ARGUMENTS)
RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))
NOISE = Relaxation(noise=1.0)
MARGIN = Relaxation(noise=1.0, margin=1.5)
SOFT = Relaxation(hard=False)
LOOKS_AHEAD = frozenset({"full_attention"})  # of a forward of its own: a teacher's has none


def on(device: str, dtype: torch.dtype, inputs: Inputs) -> Inputs:
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }


def labels_of(inputs: Inputs) -> Tensor:
    """The last two columns are the answer."""
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = 7
    return labels


# -- one plug-in in the modes --------------------------------------------------------------------


def drop(case: Case, plugin: Plugin, inputs: Inputs, **options: Any) -> Any:
    """A prefill and two decode steps; returns the cache."""
    with attach(case.model, plugin, "drop", **options) as handle, handle.trace():
        return generated(case, inputs, steps=3).past_key_values


def soft(model: Any, plugin: Plugin, inputs: Inputs, **options: Any) -> None:
    """A training step without its loss."""
    with attach(model, plugin, "soft", **options) as handle, handle.trace() as trace:
        logits = model(**inputs, labels=labels_of(inputs)).logits
    (logits.float().mean() + sum(kept.mean() for kept in trace.kept)).backward()


def record(model: Any, plugin: Plugin, inputs: Inputs) -> None:
    """A teacher's forward, with the attention and the views that pruners learn from."""
    layers = [at for at in plugin.schedule.layers if not plugin.pruner(at).needs & LOOKS_AHEAD]
    with torch.no_grad(), attach(model, plugin, "record") as handle:
        with handle.trace(attention=layers, views=layers):
            model(**inputs, labels=labels_of(inputs))


def tiny(device: str, dtype: torch.dtype) -> tuple[Case, Inputs]:
    case = Case(tiny_llava_model().to(device, dtype), tiny_inputs, never=(IMAGE,))
    return case, on(device, dtype, case.inputs(questions=(5, 9, 6), images=(2, 1, 0)))


def all_modes(case: Case, spec: PluginSpec, inputs: Inputs, *relaxations: Relaxation) -> None:
    plugin = randomised(Plugin.for_model(spec, case.model))
    for relaxation in relaxations:
        soft(case.model, plugin, inputs, relaxation=relaxation)
    record(case.model, plugin, inputs)
    drop(case, plugin, inputs)


def method(name: str, dtype: torch.dtype, device: str) -> None:
    """A pruner, with a repair behind it so that there is something to train."""
    case, inputs = tiny(device, dtype)
    first = 1 if PRUNERS.get(name).needs & LOOKS_BACK else 0
    arguments = ARGUMENTS.get(name, {})
    stages = [StageSpec(first, 0.5, name, arguments), StageSpec(3, 0.2, name, arguments)]
    all_modes(case, PluginSpec(stages, REPAIR), inputs, NOISE, MARGIN, SOFT)


def family(name: str, dtype: torch.dtype, device: str) -> None:
    """A kind of model, with RCP in small."""
    case = FAMILIES[name]()
    case.model.to(device, dtype).requires_grad_(False)
    for samples in (RAGGED, videos_of(case)) if case.videos else (RAGGED,):
        all_modes(case, rcp_spec(), on(device, dtype, case.inputs(samples)), NOISE)


# -- what a plug-in may be besides ---------------------------------------------------------------


def variants(dtype: torch.dtype, device: str) -> None:
    """Adapters, closed gaps, thresholds, a budget chosen at inference, a plan that is replayed, a
    vision tower that drops."""
    case, inputs = tiny(device, dtype)
    lora, repacked, budgets = rcp_spec(), rcp_spec(layers=(0, 3)), rcp_spec()
    lora.lora = LoraSpec(rank=2, targets=["q_proj", "down_proj"])
    repacked.position_policy = "repack"
    budgets.budgets = [0.3, 0.8]
    shorter = rcp_spec()
    shorter.tower = TowerSpec([0], 0.8)
    for spec in (lora, repacked, rcp_spec(selection="threshold"), shorter):
        all_modes(case, spec, inputs, NOISE)
    plugin = randomised(Plugin.for_model(budgets, case.model))
    with attach(case.model, plugin, "drop", budget=0.6) as handle, handle.trace() as trace:
        with torch.no_grad():
            case.model(**inputs)
    soft(case.model, plugin, inputs, plan=trace.plan)
    cache = drop(case, plugin, inputs, plan=trace.plan)
    occupancies(backbone_for(case.model), inputs, cache, plugin.schedule.layers)


def loss_terms(dtype: torch.dtype, device: str) -> None:
    """Every term and label in every form, of states and logits in ``dtype``."""
    logits = torch.randn(2, 5, 7, device=device, dtype=dtype, requires_grad=True)
    states = torch.randn(6, 4, device=device, dtype=dtype, requires_grad=True)
    scores = torch.randn(2, 6, device=device, requires_grad=True)
    labels = torch.full((2, 5), -100, device=device)
    labels[:, 3:] = 2
    known = torch.ones(2, 6, dtype=torch.bool, device=device)
    counts = torch.tensor([2, 3], device=device)
    shares = relevance_labels(torch.rand(2, 6, device=device), known)
    retained = scores.sigmoid()
    terms = [
        losses.task_loss(logits, labels),
        losses.distillation_loss(logits, logits.detach().flip(0), labels),
        losses.ranking_loss(scores, shares, known),
        losses.retention_loss(retained, known, 0.5),
        losses.indecision_loss(retained, known),
        losses.budget_loss(losses.mean_kept_ratio([retained], known, [1], 4), 0.5),
    ]
    for label in get_args(LabelForm):
        wanted = attention_labels(shares, known, counts, label)
        terms.append(losses.score_loss(scores, wanted, known))
    for normalised in (True, False):
        for form in get_args(losses.MomentForm):
            teacher = states.detach().flip(0) * 2
            terms.append(losses.repair_loss(states, teacher, normalised=normalised, form=form))
    torch.stack(terms).sum().backward()


# -- training and evaluation ---------------------------------------------------------------------

STAGES = [StageSpec(1, 0.5, "rcp", RCP_ARGUMENTS), StageSpec(2, 0.25, "rcp", RCP_ARGUMENTS)]


def train(
    precision: Any, device: str, plugin: PluginOptions, cached: bool = False, **options: Any
) -> None:
    """Four steps and their validation, the way ``train.py`` runs them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [conversation(number) for number in range(8)]
        data = str(write_conversations(folder / "data" / "all.json", rows))
        make_model().save_pretrained(folder / "base")
        make_processor().save_pretrained(folder / "base")
        module = PluginTraining(
            str(folder / "base"),
            plugin,
            dtype="float32" if precision == "32-true" else "bfloat16",
            max_new_tokens=2,
            teacher_cache=str(folder / "cache") if cached else None,
            gradient_shares_every=1,
            **options,
        )
        trainer = pl.Trainer(
            default_root_dir=folder,
            max_steps=4,
            accelerator="cpu" if device == "cpu" else "gpu",
            devices=1,
            precision=precision,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks(folder / "run"),
        )
        trainer.fit(module, ConversationDataModule(data, data, batch_size=4))


def guided_by_relevance(precision: Any, device: str) -> None:
    plugin = PluginOptions(STAGES, repair=REPAIR_LAST, budgets=[0.4, 0.9])
    guide = GuideOptions(share=0.5)
    train(precision, device, plugin, guide=guide, cached=True, gradient_checkpointing=True)


def guided_by_attention(precision: Any, device: str) -> None:
    plugin = PluginOptions(STAGES, repair=REPAIR_LAST, selection="threshold")
    guide, loss = GuideOptions(layer=3, share=0.25, sinks=2.0), LossOptions(distillation=1.0)
    train(precision, device, plugin, guide=guide, retention=RetentionOptions(), loss=loss)


def guided_online(precision: Any, device: str) -> None:
    """Two pruners, so that a view lies behind the biases that relevance is taken of."""
    plugin = PluginOptions(STAGES, repair=REPAIR_LAST)
    optimizer = OptimizerOptions(pruners=0.0)
    train(precision, device, plugin, guide="online", optimizer=optimizer, margin=1.0)


def drawn(precision: Any, device: str) -> None:
    plugin = PluginOptions(STAGES, repair=REPAIR_LAST)
    policy = PolicyOptions(0.5, group=2, first_budget=0.9)
    train(precision, device, plugin, guide=GuideOptions(share=0.25), policy=policy)


def evaluation(dtype: torch.dtype, device: str) -> None:
    case, inputs = tiny(device, dtype)
    plugin = randomised(Plugin.for_model(rcp_spec(), case.model))
    batch: Any = {"inputs": inputs, "labels": labels_of(inputs), "ids": ["a", "b", "c"]}
    diagnose(case.model, plugin, [batch])
    information_by_layer(case.model, [batch])
    attention_trends(case.model, [batch], range(3))
    agreement(case.model, plugin, [batch])(plugin.schedule)
    image = inputs["input_ids"] == IMAGE
    text = inputs["attention_mask"].bool() & ~image
    attention = torch.rand(*image.shape, image.shape[1], device=device, dtype=dtype)
    dominance = TextDominance().to(device)
    dominance.update(attention[:, None], predicting(batch["labels"]), text, image)
    dominance.compute()


# -- all of them ---------------------------------------------------------------------------------


def _each(what: Callable[..., None], names: Iterable[str], dtype: str) -> dict[str, Workload]:
    return {f"{name}-{dtype}": partial(what, name, getattr(torch, dtype)) for name in names}


TRAININGS = (guided_by_relevance, guided_by_attention, guided_online, drawn)

BRIEF: dict[str, Workload] = {
    **{
        f"{what.__name__}-{dtype}": partial(what, getattr(torch, dtype))
        for what in (variants, loss_terms, evaluation)
        for dtype in ("float32", "bfloat16")
    },
    **{what.__name__: partial(what, "32-true") for what in TRAININGS},
    **_each(method, PRUNERS.names(), "float32"),
    **_each(family, FAMILIES, "bfloat16"),
}
"""Nearly all operations that are known, in half a minute."""

LONG = _each(method, PRUNERS.names(), "bfloat16") | _each(family, FAMILIES, "float32")
"""The other precision of methods and families."""

AUTOCAST: dict[str, Workload] = {
    f"{what.__name__}-autocast": partial(what, "bf16-mixed") for what in TRAININGS
}
"""For a GPU alone: what autocast makes of an operation is another matter on each device."""

WORKLOADS = BRIEF | LONG | AUTOCAST
