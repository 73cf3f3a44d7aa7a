"""The policy phase: what it draws, what its rewards are, what learns from them, and its place."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import rcp
from rcp.attaching.given_images import encode_images, given_images, repeated_images
from rcp.choosing.sampling import Sampling
from rcp.choosing.tokens import IGNORED
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.objectives import losses
from rcp.training.checkpoint import ENTRY
from rcp.training.export import export_checkpoint
from rcp.training.objective import answer_logits, parts_of_teacher
from rcp.training.optimizer import rate_factor
from rcp.training.options import LossOptions, OptimizerOptions
from rcp.training.phases import (
    GuideOptions,
    Moment,
    PolicyOptions,
    RetentionOptions,
    moment,
    teacher_alone,
)
from rcp.training.policy import BEGINNING, policy_terms, times
from tests.decoding import family
from tests.families import FAMILIES, Sample
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
from tests.tiny_base import conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STAGES = [rcp.StageSpec(0, 0.5, "rcp", RCP), rcp.StageSpec(2, 0.25, "rcp", RCP)]
REPAIR = rcp.RepairSpec([3], arguments=FILM)
ALONE = {"guide": GuideOptions(share=0.5), "policy": PolicyOptions(0.5, group=3)}
RAGGED = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))


def drawing(base: Path, **changes: Any) -> Any:
    plugin = options(stages=STAGES, repair=REPAIR)
    return training(base, **{"plugin": plugin, **ALONE, **changes})


def randomised(module: Any) -> Any:
    torch.manual_seed(3)
    for parameter in module.plugin.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    module.plugin.pruners.eval()
    return module


def batch_of(module: Any, conversations: Path, count: int = 3) -> Any:
    dataset = ConversationDataset(conversations)
    return ConversationCollator(module.processor)([dataset[n] for n in range(count)])


# -- the forward ---------------------------------------------------------------------------------


def test_a_reward_is_the_answers_likelihood_on_the_tokens_drawn(
    base_folder: Path, conversations: Path
):
    """The others are gone: each draw replayed by inference, one sample after another."""
    module = randomised(drawing(base_folder))
    batch, group = batch_of(module, conversations), 4
    repeated = times(batch, group)
    with rcp.attach(module.model, module.plugin, "soft", relaxation=Sampling()) as handle:
        with torch.no_grad(), handle.trace() as trace:
            logits, labels = answer_logits(module.model, repeated)
    kept = [mask.bool().sum(1).unique().tolist() for mask in trace.kept]
    counts = [[module.plugin.schedule.count(stage, 16)] for stage in range(2)]
    assert kept == counts, "fixed counts, whatever is drawn"
    assert len({tuple(row) for row in trace.kept[0].tolist()}) > 3, "draws differ"
    with rcp.attach(module.model, module.plugin, "drop", plan=trace.plan):
        with torch.no_grad():
            replayed, _ = answer_logits(module.model, repeated)
    found, expected = (losses.answer_log_likelihoods(one, labels) for one in (logits, replayed))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_terms_by_their_definition(base_folder: Path, conversations: Path):
    """Rewards are means over an answer's tokens; the guide's term starts at zero."""
    module = randomised(drawing(base_folder))
    batch, group = batch_of(module, conversations), 3
    torch.manual_seed(1)
    terms, seen, rewards = policy_terms(
        module.model, module.plugin, module.plugin, times(batch, group), group, None
    )
    assert rewards.shape == (group, 3) and (rewards < 0).all()
    assert terms["guide"].item() == pytest.approx(0.0, abs=1e-5)
    assert terms["policy"].requires_grad and sorted(seen.drawn) == [0, 2]
    drawn = [order.isfinite().sum(1).unique().tolist() for order in seen.drawn.values()]
    assert drawn == [[8], [4]]
    one_token = batch["labels"].clone()
    one_token[:, -1] = IGNORED  # the end of the sequence
    torch.manual_seed(1)
    changed = times({**batch, "labels": one_token}, group)
    *_, short = policy_terms(module.model, module.plugin, module.plugin, changed, group, None)
    assert not torch.allclose(short, rewards)


def test_what_the_first_stage_scores_once_it_would_score_for_each_draw(
    base_folder: Path, conversations: Path
):
    module = randomised(drawing(base_folder))
    repeated = times(batch_of(module, conversations), 2)
    with torch.no_grad(), rcp.attach(
        module.model, module.plugin, "soft", relaxation=Sampling()
    ) as handle, handle.trace(views=[0, 2]) as seen:
        answer_logits(module.model, repeated)
    first = seen.views[0].mapped(lambda value: value[:3])
    second = seen.views[0].mapped(lambda value: value[3:])
    pruner = module.plugin.pruner(0)
    torch.testing.assert_close(pruner(first), pruner(second), rtol=1e-5, atol=1e-6)
    assert seen.views[2].alive.shape[1] == 8, "what a later stage sees has been drawn"


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_features_of_images_serve_all_draws(name: str):
    case = family(name)
    inputs = case.inputs(RAGGED)
    empty = torch.full_like(inputs["input_ids"], IGNORED)
    batch: Any = {"inputs": inputs, "labels": empty, "ids": [], "question_types": [],
                  "answers": [], "skipped": [], "own": []}
    repeated = times(batch, 2)["inputs"]

    def logits() -> torch.Tensor:
        if hasattr(case.model.base_model, "rope_deltas"):
            case.model.base_model.rope_deltas = None  # of the last call
        return case.model(**repeated).logits

    expected = logits()
    features = repeated_images(encode_images(case.model, inputs), 2)
    with given_images(case.model, features):
        torch.testing.assert_close(logits(), expected, rtol=1e-4, atol=1e-4)
    half = len(expected) // 2
    torch.testing.assert_close(expected[:half], expected[half:], rtol=1e-4, atol=1e-4)


def test_no_features_stay_none():
    assert repeated_images(None, 3) is None


# -- the phase -----------------------------------------------------------------------------------


def test_it_stands_between_the_guide_and_the_rest():
    guide, policy, soft = GuideOptions(share=0.25), PolicyOptions(0.25), RetentionOptions(0.5)
    at = [moment(step / 8, guide, soft, policy) for step in range(8)]
    assert [m.phase for m in at] == ["guided"] * 2 + ["policy"] * 2 + ["soft"] * 2 + ["hard"] * 2
    assert [m.progress for m in at] == pytest.approx([0, 0.5, 0, 0.5, 0, 0.25, 0.5, 0.75])
    assert moment(0.2, None, None, policy) == Moment("policy", pytest.approx(0.8))
    whole = GuideOptions(share=0.7), PolicyOptions(0.3)
    assert {moment(n / 1000, whole[0], None, whole[1]).phase for n in range(1000)} == {
        "guided", "policy"}
    assert teacher_alone(*whole) and not teacher_alone(whole[0], PolicyOptions(0.2))
    assert not teacher_alone(GuideOptions(share=1.0, online=True), None)
    assert parts_of_teacher({"repair"}, *whole) == ["images", "relevance"]


def test_rates_of_each_part():
    guide, policy = GuideOptions(share=0.5), PolicyOptions(0.25, learning_rate=4e-3)
    told = OptimizerOptions(learning_rate=1e-2, warmup=0.5, floor=0.0, pruners=0.1)
    taught = rate_factor(told, guide, None, 16, 1.0, 0.1, policy, 1.0)
    others = rate_factor(told, guide, None, 16, 0.0, 1.0, policy, 0.0)
    assert [taught(step) for step in (8, 9, 10)] == pytest.approx([0, 0.2, 0.4]), "warms up anew"
    assert [others(step) for step in (4, 8, 10)] == [0, 0, 0]
    assert taught(14) == pytest.approx(0.1 * others(14)) and others(14) == 1


@pytest.mark.parametrize(
    ("first", "budgets", "progress", "expected"),
    [
        (None, None, 0.0, (0.1, 0.1)),
        (0.4, None, 0.0, (0.4, 0.4)),
        (0.4, None, 0.25, (0.2, 0.2)),
        (0.4, None, 0.5, (0.1, 0.1)),
        (0.4, None, 1.0, (0.1, 0.1)),
        (None, [0.05, 0.8], 0.0, (0.8, 0.8)),
        (None, [0.05, 0.8], 0.25, (0.2, 0.8)),
        (None, [0.05, 0.8], 0.75, (0.05, 0.8)),
        (0.2, [0.05, 0.8], 0.25, (0.1, 0.8)),
    ],
)
def test_budgets_fall(
    first: float | None, budgets: list[float] | None, progress: float,
    expected: tuple[float, float],
):
    spec = rcp.PluginSpec([rcp.StageSpec(0, 0.1, "rcp", RCP)], budgets=budgets)
    found = PolicyOptions(first_budget=first).budgets(progress, rcp.Plugin(spec, 16, 4))
    assert found == pytest.approx(expected)


class Seen(pl.Callback):
    """Phases, what the parts of the plug-in were at the start of each step, and at the end."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.parts: dict[str, list[str]] = {"0": [], "2": [], "repair": []}
        self.budgets: list[float] = []

    def on_train_batch_start(self, _: pl.Trainer, module: Any, *__: Any) -> None:
        self.phases.append(module.moment.phase)
        for layer in (0, 2):
            self.parts[str(layer)].append(fingerprint(module.plugin.pruner(layer)))
        self.parts["repair"].append(fingerprint(module.plugin.repair))

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        self.budgets.append(float(run.callback_metrics.get("train/budget", 1.0)))

    def on_train_end(self, run: pl.Trainer, module: Any) -> None:
        self.on_train_batch_start(run, module)

    def moved(self, part: str) -> list[bool]:
        values = self.parts[part]
        return [before != after for before, after in zip(values, values[1:])]


def test_each_part_learns_in_its_phases_alone(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    """Stages that no guide teaches learn, too; decay and dropout touch nothing that stands."""
    seen = Seen()
    module = drawing(
        base_folder,
        guide=GuideOptions(share=0.25, pruning_layers=[0]),
        policy=PolicyOptions(0.5, group=3, first_budget=0.9),
        optimizer=OptimizerOptions(1e-2, weight_decay=0.5, warmup=0.0, pruners=0.0),
    )
    frozen = fingerprint(module.model)
    trainer(tmp_path, 8, (seen,), limit_val_batches=0).fit(module, data(conversations))
    assert seen.phases[:-1] == ["guided"] * 2 + ["policy"] * 4 + ["hard"] * 2
    assert seen.moved("0") == [True] * 6 + [False] * 2
    assert seen.moved("2") == [False] * 2 + [True] * 4 + [False] * 2
    assert seen.moved("repair") == [False] * 6 + [True] * 2
    own = module.plugin.mean_ratio
    assert seen.budgets[2:6] == pytest.approx([0.9, (0.9 * own) ** 0.5, own, own])
    assert fingerprint(module.model) == frozen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_pruner_gets_a_gradient_and_nothing_else(
    checkpointing: bool, base_folder: Path, conversations: Path, tmp_path: Path
):
    seen = Gradients()
    given: dict[str, Any] = {"guide": GuideOptions(share=1e-9), "policy": PolicyOptions(0.9, 4),
                             "gradient_checkpointing": checkpointing}
    module = drawing(base_folder, **given)
    module.beginning.of(module.plugin)  # other than what the callback makes of it
    run = trainer(tmp_path, 2, (seen,), limit_val_batches=0)
    run.fit(module, data(conversations, batch_size=8))
    silent = [name for name, gradient in seen.plugin.items()
              if name.startswith("pruners.") and (gradient is None or not gradient.abs().max() > 0)]
    # a constant on all scores of a sample changes no draw
    assert {name.split(".")[-1] for name in silent} <= {"bias"}
    assert all(g is None for name, g in seen.plugin.items() if name.startswith("repair."))
    assert all(gradient is None for gradient in seen.frozen)
    shares = {n.rpartition("_")[-1] for n in seen.logged if n.startswith("train/gradient_share")}
    assert shares == {"policy", "guide"} and "train/reward" in seen.logged
    assert seen.logged["train/guide"] > 0


@pytest.mark.parametrize("at", [1, 3, 4, 6])  # guided, as draws begin, while they go on, behind
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    at: int, base_folder: Path, conversations: Path, tmp_path: Path
):
    ends, keep = [], KeepCheckpoint(tmp_path / "0", at)
    for number, checkpoint in enumerate((None, tmp_path / "0" / "kept.ckpt")):
        torch.manual_seed(0)
        policy = PolicyOptions(0.375, group=2, first_budget=0.8)
        module = drawing(base_folder, guide=GuideOptions(share=0.375), policy=policy)
        more = (keep,) if number == 0 else ()
        run = trainer(tmp_path / str(number), 8, more, val_check_interval=1)
        run.fit(module, data(conversations, batch_size=4), ckpt_path=checkpoint)
        ends.append(fingerprint(module.plugin))
    assert ends[0] == ends[1]
    written = torch.load(tmp_path / "0" / "last.ckpt", weights_only=True)
    assert written[ENTRY]["training"]["policy"]["group"] == 2
    assert "full_accuracy" in written[ENTRY]["training"]["results"]
    kept = torch.load(tmp_path / "0" / "kept.ckpt", weights_only=True)
    assert (BEGINNING in kept) == (at > 3)
    assert BEGINNING in written


def test_a_beginning_of_another_plugin_is_refused(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    module = drawing(base_folder)
    trainer(tmp_path, 4, limit_val_batches=0).fit(module, data(conversations))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = next(iter(checkpoint[BEGINNING]))
    checkpoint[BEGINNING][name] = torch.zeros(3, 3, 3)
    with pytest.raises(rcp.UserError, match=f"'{name}' in the checkpoint"):
        drawing(base_folder).on_load_checkpoint(checkpoint)
    checkpoint[BEGINNING] = [1]
    with pytest.raises(rcp.UserError, match="The checkpoint holds no weights by name"):
        drawing(base_folder).on_load_checkpoint(checkpoint)


def test_samples_without_an_image_teach_nothing(base_folder: Path, tmp_path: Path):
    turns = [{"from": "human", "value": "how many ?"}, {"from": "gpt", "value": "two"}]
    rows = [conversation(n, image=None, conversations=turns) for n in range(4)]
    path = write_conversations(tmp_path / "text.json", rows)
    seen = Gradients()
    policy = PolicyOptions(0.9, group=2)
    module = drawing(base_folder, guide=GuideOptions(share=1e-9), policy=policy)
    trainer(tmp_path, 1, (seen,), limit_val_batches=0).fit(module, data(path))
    pruners = [g for name, g in seen.plugin.items() if name.startswith("pruners.")]
    assert pruners and all(g is not None and not g.any() for g in pruners)


# -- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"guide": "online"}, "online guide teaches to the end.*guide.online to false"),
        ({"guide": None}, "untaught.*model.guide, or model.pruners_from"),
        ({"policy": PolicyOptions(0.6)}, "policy.share is 0.6.*leaves 0.5"),
        ({"policy": PolicyOptions(0.0)}, "policy.share is 0.0.*above 0"),
        ({"policy": PolicyOptions(float("nan"))}, "policy.share is nan"),
        ({"policy": PolicyOptions(0.5, group=1)}, "policy.group is 1.*2 or more"),
        ({"policy": PolicyOptions(0.5, learning_rate=0.0)}, "policy.learning_rate is 0.0"),
        ({"policy": PolicyOptions(0.5, guide=-1.0)}, "policy.guide is -1.0.*weight"),
        ({"policy": PolicyOptions(0.5, first_budget=0.1)}, "policy.first_budget is 0.1.*to 1"),
        ({"policy": PolicyOptions(0.5, first_budget=1.5)}, "policy.first_budget is 1.5.*to 1"),
        ({"plugin": options(stages=STAGES, selection="threshold"), "loss": LossOptions()},
         "selection: threshold leaves open.*top_k"),
        ({"plugin": options(stages=[rcp.StageSpec(1, 0.5, "fastv")]), "guide": None,
          "pruners_from": "x"}, "none of these does.*learned pruner"),
        ({"plugin": options(stages=STAGES, repair=None), "policy": PolicyOptions(0.4),
          "optimizer": OptimizerOptions(pruners=0)}, "model.policy leaves"),
    ],
)
def test_refusals(changes: dict[str, Any], complaint: str, base_folder: Path):
    with pytest.raises(rcp.UserError, match=complaint):
        drawing(base_folder, **changes)


def test_draws_alone_need_no_repair(base_folder: Path):
    plugin = options(stages=STAGES, repair=None)
    drawing(base_folder, plugin=plugin, optimizer=OptimizerOptions(pruners=0.0))


def test_pruners_that_another_training_has_taught_go_on(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    module = drawing(base_folder)
    trainer(tmp_path / "first", 2, limit_val_batches=0).fit(module, data(conversations))
    export_checkpoint(tmp_path / "first" / "last.ckpt", tmp_path / "plugin")
    given = {"guide": None, "policy": PolicyOptions(1.0, group=2),
             "pruners_from": str(tmp_path / "plugin")}
    other = drawing(base_folder, **given)
    assert fingerprint(other.plugin.pruners) == fingerprint(module.plugin.pruners)
    trainer(tmp_path / "second", 2, limit_val_batches=0).fit(other, data(conversations))
    assert fingerprint(other.plugin.pruners) != fingerprint(module.plugin.pruners)
