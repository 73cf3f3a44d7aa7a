"""CoViPAL's two stages in one training: what each trains, alone and resumed."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import rcp
from rcp.choosing.schedule import Schedule
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.training.checkpoint import ENTRY
from rcp.training.guided import refuse_waiting_for_idle_parts
from rcp.training.objective import answer_logits
from rcp.training.optimizer import rate_factor
from rcp.training.options import OptimizerOptions
from rcp.training.phases import GuideOptions, Moment, RetentionOptions, moment
from rcp.training.teacher.passes import watched
from tests.test_training_plugin import (
    FILM,
    RCP,
    Gradients,
    KeepCheckpoint,
    data,
    fingerprint,
    options,
    trainer,
    training,
)

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

COVIPAL = {"inner": 8, "heads": 2}
STAGES = [rcp.StageSpec(0, 0.5, "covipal", COVIPAL), rcp.StageSpec(2, 0.25, "rcp", RCP)]
BOTH = {"guide": GuideOptions(layer=2, share=0.5, pruning_layers=[0]),
        "retention": RetentionOptions(share=0.5)}
ALONE = {"guided": {"guide": GuideOptions(layer=3, share=1.0)},
         "relevant": {"guide": GuideOptions(share=1.0)},
         "soft": {"retention": RetentionOptions(share=1.0)},
         "hard": {}}


def covipal(base: Path, repair: bool = True, **changes: Any) -> Any:
    repaired = rcp.RepairSpec([3], arguments=FILM) if repair else None
    return training(base, options(stages=STAGES, repair=repaired), **changes)


def test_stages_follow_from_the_share_of_steps():
    guide, retention = GuideOptions(layer=9, share=0.25), RetentionOptions(share=0.5)
    at = [moment(step / 8, guide, retention) for step in range(8)]
    assert at[:2] == [Moment("guided", 0.0), Moment("guided", 0.5)]
    assert [m.phase for m in at[2:]] == ["soft"] * 3 + ["hard"] * 3
    assert [m.progress for m in at[2:]] == pytest.approx([n / 6 for n in range(6)])
    assert moment(0.5, None, None) == Moment("hard", 0.5)
    assert moment(0.99, GuideOptions(layer=9, share=1.0), None).phase == "guided"


class StagesSeen(pl.Callback):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def on_train_batch_start(self, _: pl.Trainer, module: Any, *__: Any) -> None:
        self.stages.append(module.moment.phase)


def test_the_first_stage_trains_only_the_pruners_that_have_a_guide(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    module = covipal(base_folder, guide=GuideOptions(layer=2, share=1.0, pruning_layers=[0]))
    module.optimizer.weight_decay = 0.0
    before = {name: value.clone() for name, value in module.plugin.named_parameters()}
    frozen = fingerprint(module.model)
    trainer(tmp_path, 2).fit(module, data(conversations))
    moved = {n.split(".")[1] for n, p in module.plugin.named_parameters()
             if not torch.equal(p, before[n]) and n.startswith("pruners")}
    assert moved == {"0"} and fingerprint(module.model) == frozen
    assert all(torch.equal(p, before[n]) for n, p in module.plugin.named_parameters()
               if n.startswith("repair"))


@pytest.mark.parametrize("stage", ALONE)
def test_each_stage_runs_alone_and_reaches_every_parameter(
    stage: str, base_folder: Path, conversations: Path, tmp_path: Path
):
    seen, stages = Gradients(), StagesSeen()
    guided = "guide" in ALONE[stage]
    module = covipal(base_folder, repair=not guided, **ALONE[stage])
    trainer(tmp_path, 1, (seen, stages)).fit(module, data(conversations, batch_size=8))
    assert stages.stages == ["guided" if guided else stage]
    silent = [name for name, g in seen.plugin.items() if g is None or not g.abs().max() > 0]
    assert silent == []
    assert all(gradient is None for gradient in seen.frozen)
    terms = {"soft": {"retention", "indecision", "task", "repair"}, "hard": {"task", "repair"}}
    expected = terms.get(stage, {"guide"})
    shares = {n.rpartition("_")[-1] for n in seen.logged if n.startswith("train/gradient_share")}
    assert shares == expected
    # what a token is retained by is not yet a decision
    if stage == "soft":
        assert seen.logged["train/kept_from_layer_0"] % 1 != 0


def test_guided_pruners_may_learn_more_slowly_end_to_end(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    optimizer = OptimizerOptions(learning_rate=1e-2, weight_decay=0.0, warmup=0.0, pruners=0.01)
    module = covipal(base_folder, guide=GuideOptions(share=0.5), optimizer=optimizer)
    run = trainer(tmp_path, 8)
    run.fit(module, data(conversations, batch_size=4))
    pruners, others = run.optimizers[0].param_groups
    assert pruners["lr"] == pytest.approx(0.01 * others["lr"]) and others["lr"] > 0
    assert len(pruners["params"]) == len(list(module.plugin.pruners.parameters()))
    rate = rate_factor(optimizer, module.guide, None, 8, 1.0, 0.01)
    assert rate(0) * 1e-2 == pytest.approx(module.guide.learning_rate), "a rate of its own"


def test_pruners_of_rate_zero_are_frozen_end_to_end(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """The guide still teaches them, the backward pass then leaves them out, decay included."""
    optimizer = OptimizerOptions(learning_rate=1e-2, weight_decay=0.5, warmup=0.0, pruners=0.0)
    guide, seen = GuideOptions(share=0.5), PrunersSeen()
    module = covipal(base_folder, repair=True, guide=guide, optimizer=optimizer)
    trainer(tmp_path, 4, (seen,)).fit(module, data(conversations, batch_size=4))
    assert len(set(seen.pruners[:3])) == 3, "taught twice"
    assert len(set(seen.pruners[2:])) == 1, "then frozen"
    assert len(set(seen.repair[2:])) == 3
    assert seen.noise == 0 < module.temperature.noise_at(0.0)
    assert seen.dropout == [True, True, False, False], "they then choose as at inference"


class PrunersSeen(pl.Callback):
    """What the parts of the plug-in were at the start of each step, and at the end."""

    def __init__(self) -> None:
        self.pruners: list[str] = []
        self.repair: list[str] = []
        self.dropout: list[bool] = []

    def on_before_backward(self, _: pl.Trainer, module: pl.LightningModule, *__: Any) -> None:
        self.dropout.append(any(part.training for part in module.plugin.pruners.modules()))

    def on_train_batch_start(self, _: pl.Trainer, module: pl.LightningModule, *__: Any) -> None:
        self.pruners.append(fingerprint(module.plugin.pruners))
        self.repair.append(fingerprint(module.plugin.repair))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.on_train_batch_start(trainer, module)
        self.noise = trainer.callback_metrics["train/noise"]


def test_a_training_starts_from_pruners_that_another_has_taught(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    guided = covipal(base_folder, repair=False, guide=GuideOptions(share=1.0))
    trainer(tmp_path, 2).fit(guided, data(conversations))
    rcp.save_plugin(guided.plugin, tmp_path / "taught")
    taught = fingerprint(guided.plugin.pruner(0))

    def started(stages: list[rcp.StageSpec]) -> Any:
        repair = rcp.RepairSpec([3], arguments=FILM)
        frozen = OptimizerOptions(learning_rate=1e-2, pruners=0.0)
        return training(base_folder, options(stages=stages, repair=repair), optimizer=frozen,
                        pruners_from=str(tmp_path / "taught"))

    fewer = [rcp.StageSpec(0, 0.25, "covipal", COVIPAL), rcp.StageSpec(1, 0.25, "rcp", RCP)]
    module = started(fewer)
    fresh = fingerprint(module.plugin.pruner(1))
    trainer(tmp_path / "next", 2).fit(module, data(conversations))
    assert fingerprint(module.plugin.pruner(0)) == taught
    assert fingerprint(module.plugin.pruner(1)) == fresh != fingerprint(guided.plugin.pruner(2))
    assert summary(tmp_path / "next")["pruners_from"] == str(tmp_path / "taught")
    with pytest.raises(rcp.UserError, match="model.pruners_from is .*It has layer 0: covipal"):
        started([rcp.StageSpec(1, 0.25, "rcp", RCP)])
    shutil.rmtree(tmp_path / "taught")
    with pytest.raises(rcp.UserError, match="taught"):
        started(fewer)


def summary(folder: Path) -> Any:
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    return checkpoint[ENTRY]["training"]


def test_a_plugin_of_frozen_pruners_alone_is_refused(base_folder: Path):
    with pytest.raises(rcp.UserError, match="model.optimizer.pruners is 0.* nothing else"):
        covipal(base_folder, repair=False, optimizer=OptimizerOptions(pruners=0.0))
    guide = GuideOptions(share=1.0)
    covipal(base_folder, repair=False, guide=guide, optimizer=OptimizerOptions(pruners=0.0))


@pytest.mark.parametrize("at", [2, 4, 5, 7])  # inside the stages and between them
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    at: int, base_folder: Path, conversations: Path, tmp_path: Path
):
    ends, seen = [], StagesSeen()
    keep = KeepCheckpoint(tmp_path / "0", at)
    for number, checkpoint in enumerate((None, tmp_path / "0" / "kept.ckpt")):
        torch.manual_seed(0)
        module, folder = covipal(base_folder, **BOTH), tmp_path / str(number)
        more = (keep, seen) if number == 0 else ()
        run = trainer(folder, 8, more, val_check_interval=1)
        run.fit(module, data(conversations, batch_size=2), ckpt_path=checkpoint)
        ends.append(fingerprint(module.plugin))
    assert seen.stages == ["guided"] * 4 + ["soft"] * 2 + ["hard"] * 2
    assert ends[0] == ends[1]


def test_the_teacher_is_watched_up_to_its_guide_and_no_further(
    base_folder: Path, conversations: Path
):
    module = covipal(base_folder, guide=GuideOptions(layer=2, pruning_layers=[0]))
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[0], dataset[1]])
    layers, ran = module.model.get_decoder().layers, []
    hooks = [layer.register_forward_hook(lambda *_, at=at: ran.append(at))
             for at, layer in enumerate(layers)]
    found = watched(module.model, module.plugin, batch, views=[0], attention=[2]).trace
    assert ran == [0, 1]
    with rcp.attach(module.model, module.plugin, "record") as handle:
        with handle.trace(attention=[2], views=[0]) as whole:
            answer_logits(module.model, batch)
    assert torch.equal(found.question_attention[2], whole.question_attention[2])
    assert torch.equal(found.views[0].visual, whole.views[0].visual)
    for hook in hooks:
        hook.remove()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_the_guided_stage_follows_its_guide(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """Trained long enough on eight samples, the scores are the labels."""
    guide = GuideOptions(layer=3, share=1.0, learning_rate=2e-2)
    stages = [rcp.StageSpec(0, 0.25, "covipal", {"inner": 32, "heads": 2})]
    module = training(base_folder, options(stages=stages, repair=None), guide=guide)
    run = trainer(tmp_path, 60)
    run.fit(module, data(conversations, batch_size=8))
    assert run.callback_metrics["train/loss"] < 0.1, "the labels have variance one"


def test_a_stage_that_keeps_nothing_learns_nothing_from_a_guide():
    wiped = Schedule((0, 1, 3), (0.5, 0.25, 0.0), 4)
    assert GuideOptions(layer=2).pruning(wiped) == GuideOptions().pruning(wiped) == (0, 1)
    assert GuideOptions(pruning_layers=[0]).pruning(wiped) == (0,)


@pytest.mark.parametrize(("strategy", "refused"), [
    (pl.strategies.DDPStrategy(), True),
    (pl.strategies.DDPStrategy(find_unused_parameters=True), False),
    (pl.strategies.SingleDeviceStrategy(), False),
])
def test_processes_that_would_wait_for_ever_are_refused(strategy: Any, refused: bool):
    run: Any = SimpleNamespace(strategy=strategy, world_size=2)
    if refused:
        with pytest.raises(rcp.UserError, match="ddp_find_unused_parameters_true"):
            refuse_waiting_for_idle_parts(run)
    else:
        refuse_waiting_for_idle_parts(run)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"guide": {"layer": 2}}, "Layer 2 cannot guide the pruner at layer 2"),
        ({"guide": {"layer": 3, "pruning_layers": [1]}}, "names layer 1.* Choose among 0, 2"),
        ({"guide": {"layer": 9, "pruning_layers": [0]}}, "guide.layer is 9.*0 to 3"),
        ({"guide": {"layer": 2, "share": 0.0}}, "guide.share is 0.0"),
        ({"guide": {"layer": 2, "sinks": 1.0}}, "guide.sinks is 1.0"),
        ({"retention": {"share": 1.5}}, "retention.share is 1.5"),
    ],
)
def test_stages_that_cannot_be_are_refused(change: Any, complaint: str, base_folder: Path):
    kinds = {"guide": GuideOptions, "retention": RetentionOptions}
    with pytest.raises(rcp.UserError, match=complaint):
        covipal(base_folder, **{name: kinds[name](**values) for name, values in change.items()})
