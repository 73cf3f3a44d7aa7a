"""A guide beside the rest of a training: what each step computes, and what its parts learn from."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

import rcp
import train
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.training.guided import parts_stand_still
from rcp.training.optimizer import rate_factor
from rcp.training.options import LossOptions, OptimizerOptions
from rcp.training.phases import GuideOptions, Moment, PolicyOptions, RetentionOptions, moment
from rcp.training.teacher.passes import relevant, watched
from tests.cli import RCP, settings
from tests.test_training_plugin import (
    FILM,
    Gradients,
    KeepCheckpoint,
    data,
    fingerprint,
    options,
    trainer,
    training,
)
from tests.tiny_base import LAYERS, conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ONLINE = GuideOptions(online=True, share=1.0)
STAGES = [rcp.StageSpec(1, 0.5, "rcp", RCP), rcp.StageSpec(2, 0.25, "rcp", RCP)]
REPAIR = rcp.RepairSpec([3], arguments=FILM)
FROZEN = OptimizerOptions(learning_rate=1e-2, pruners=0.0)


def one_step(
    base: Path, conversations: Path, folder: Path, plugin: Any = None, **changes: Any
) -> Gradients:
    """The gradients and metrics of a first step from weights that are the same each time."""
    torch.manual_seed(0)
    seen = Gradients()
    module = training(base, plugin or options(stages=STAGES, repair=REPAIR), **changes)
    trainer(folder, 1, (seen,), limit_val_batches=0).fit(module, data(conversations))
    assert all(gradient is None for gradient in seen.frozen)
    return seen


@pytest.mark.parametrize("layer", [None, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_pruners_learn_from_the_guide_alone_and_the_rest_from_the_answers(
    layer: int | None, checkpointing: bool, base_folder: Path, conversations: Path, tmp_path: Path
):
    given: dict[str, Any] = {"gradient_checkpointing": checkpointing}
    plain = (base_folder, conversations, tmp_path)
    online = one_step(*plain, guide=GuideOptions(layer, 1.0, online=True), **given)
    guided = one_step(*plain, guide=GuideOptions(layer, 1.0), **given)
    answers = one_step(*plain, optimizer=FROZEN, **given)
    for name, gradient in online.plugin.items():
        expected = (guided if name.startswith("pruners.") else answers).plugin[name]
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, expected, msg=name)
    for term, of in (("guide", guided), ("task", answers), ("repair", answers)):
        torch.testing.assert_close(online.logged[f"train/{term}"], of.logged[f"train/{term}"])
    shares = {n.rpartition("_")[-1] for n in online.logged if n.startswith("train/gradient_share")}
    assert shares == {"guide", "task", "repair"}
    assert online.logged["train/noise"] == 0 == answers.logged["train/noise"]


class Passes(pl.Callback):
    """Counts how often a decoder layer runs in the steps of a training."""

    def on_fit_start(self, _: pl.Trainer, module: Any) -> None:
        self.runs = [0] * LAYERS
        for at, layer in enumerate(module.model.get_decoder().layers):
            layer.register_forward_hook(lambda *_, at=at: self._count(at))

    def _count(self, at: int) -> None:
        self.runs[at] += 1


@pytest.mark.parametrize(
    ("guide", "repaired", "runs"),
    [
        (ONLINE, True, [2, 2, 2, 2]),  # teacher and student
        (GuideOptions(3, 1.0, online=True), True, [2, 2, 2, 2]),
        (ONLINE, False, [1, 1, 1, 1]),  # nothing learns from the answers: no student
        (GuideOptions(share=1.0), True, [1, 1, 1, 1]),
        (GuideOptions(3, 1.0), True, [1, 1, 1, 0]),
    ],
)
def test_one_pass_of_the_teacher_tells_all_of_it(
    guide: GuideOptions, repaired: bool, runs: list[int], base_folder: Path, conversations: Path,
    tmp_path: Path,
):
    passes = Passes()
    plugin = options(stages=STAGES, repair=REPAIR if repaired else None)
    module = training(base_folder, plugin, guide=guide, loss=LossOptions(distillation=1.0))
    trainer(tmp_path, 1, (passes,), limit_val_batches=0).fit(module, data(conversations))
    assert passes.runs == runs


def test_what_one_pass_tells_is_what_two_would(base_folder: Path, conversations: Path):
    """Views at layers behind the biases, relevance from the first view on, answers."""
    module = training(base_folder, options(stages=STAGES, repair=REPAIR))
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[0], dataset[1]])
    parts = module.model, module.plugin, batch
    whole = relevant(*parts)
    found = relevant(*parts, views=(1, 2), answers=[3])
    alone = watched(*parts, views=(1, 2), answers=[3])
    assert whole.answers is None and found.answers is not None and alone.answers is not None
    assert (found.relevance[:, :1] == 0).all() and (whole.relevance[:, :1] > 0).any()
    torch.testing.assert_close(found.relevance[:, 1:], whole.relevance[:, 1:])
    torch.testing.assert_close(found.answers[0], alone.answers[0])
    torch.testing.assert_close(found.answers[1].answer_states[3], alone.trace.answer_states[3])
    for layer in (1, 2):
        mine, theirs = found.trace.views[layer], alone.trace.views[layer]
        torch.testing.assert_close(mine.visual, theirs.visual)
        torch.testing.assert_close(mine.question_attention, theirs.question_attention)
        assert not mine.visual.requires_grad and not mine.question.requires_grad
    assert not found.answers[0].requires_grad


def test_views_of_attention_lead_back_into_no_graph(base_folder: Path, conversations: Path):
    stages = [rcp.StageSpec(1, 0.5, "pyramiddrop"), rcp.StageSpec(2, 0.25, "fastv")]
    module = training(base_folder, options(stages=stages, repair=REPAIR))
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[0], dataset[1]])
    views = relevant(module.model, module.plugin, batch, views=(1, 2)).trace.views
    alone = watched(module.model, module.plugin, batch, views=(1, 2)).trace.views
    for layer, name in ((1, "attention"), (2, "attention_before")):
        mine, theirs = views[layer].blocks(name), alone[layer].blocks(name)
        assert not mine("last").requires_grad and not mine.visual_keys.requires_grad
        torch.testing.assert_close(mine("last"), theirs("last"))
        torch.testing.assert_close(mine.visual_keys, theirs.visual_keys)


def test_a_cache_serves_an_online_guide(base_folder: Path, conversations: Path, tmp_path: Path):
    given = {"guide": ONLINE, "teacher_cache": str(tmp_path / "cache")}
    computed = one_step(base_folder, conversations, tmp_path, guide=ONLINE).logged
    read = one_step(base_folder, conversations, tmp_path, **given).logged
    for term, close in (("guide", 2e-3), ("task", 1e-6), ("repair", 1e-6)):
        name = f"train/{term}"
        assert float(read[name]) == pytest.approx(float(computed[name]), rel=close)


@pytest.mark.parametrize("at", [1, 2, 5])  # in the middle of an epoch, at its end, after the guide
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    at: int, base_folder: Path, conversations: Path, tmp_path: Path
):
    ends, keep = [], KeepCheckpoint(tmp_path / "0", at)
    guide = GuideOptions(online=True, share=0.5)
    for number, checkpoint in enumerate((None, tmp_path / "0" / "kept.ckpt")):
        torch.manual_seed(0)
        module = training(base_folder, options(stages=STAGES), guide=guide)
        more = (keep,) if number == 0 else ()
        run = trainer(tmp_path / str(number), 6, more, val_check_interval=1)
        run.fit(module, data(conversations, batch_size=4), ckpt_path=checkpoint)
        ends.append(fingerprint(module.plugin))
    assert ends[0] == ends[1]
    told = torch.load(tmp_path / "0" / "last.ckpt", weights_only=True)["rcp"]["training"]
    assert told["guide"]["online"] and {"accuracy", "full_accuracy"} <= set(told["results"])


class Parts(pl.Callback):
    """What the parts of the plug-in were at the start of each step, and at the end."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {"1": [], "2": [], "repair": []}

    def on_train_batch_start(self, _: pl.Trainer, module: Any, *__: Any) -> None:
        for layer in (1, 2):
            self.seen[str(layer)].append(fingerprint(module.plugin.pruner(layer)))
        self.seen["repair"].append(fingerprint(module.plugin.repair))

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.on_train_batch_start(trainer, module)

    def moved(self, part: str) -> list[bool]:
        values = self.seen[part]
        return [before != after for before, after in zip(values, values[1:])]


@pytest.mark.parametrize("pruners", [0.0, 1.0])
def test_each_part_learns_in_its_steps_alone(
    pruners: float, base_folder: Path, conversations: Path, tmp_path: Path
):
    """Weight decay included: what stands still stays bit for bit what it was."""
    guide, seen = GuideOptions(online=True, share=0.5, pruning_layers=[1]), Parts()
    optimizer = OptimizerOptions(1e-2, weight_decay=0.5, warmup=0.0, pruners=pruners)
    plugin = options(stages=STAGES, repair=REPAIR)
    module = training(base_folder, plugin, guide=guide, optimizer=optimizer)
    trainer(tmp_path, 4, (seen,), limit_val_batches=0).fit(module, data(conversations))
    own = pruners > 0
    assert seen.moved("1") == [True, True, own, own]
    assert seen.moved("2") == [own] * 4, "no guide teaches it"
    assert seen.moved("repair") == [True] * 4


def test_rates_of_an_online_guide():
    guide = GuideOptions(online=True, share=0.5, learning_rate=1e-3)
    told = OptimizerOptions(learning_rate=1e-2, warmup=0.25, floor=0.0, pruners=0.1)
    taught = rate_factor(told, guide, None, 16, 1.0, 0.1)
    others = rate_factor(told, guide, None, 16, 0.0, 1.0)
    assert [taught(step) for step in (0, 1, 2)] == pytest.approx([0, 0.05, 0.1])
    assert taught(5) == pytest.approx(0.1 * 0.5), "half of the cosine"
    assert [others(step) for step in (0, 2, 4, 10)] == pytest.approx([0, 0.5, 1, 0.5])
    assert taught(10) == pytest.approx(0.1 * others(10)), "then like all others, more slowly"
    assert moment(0.1, guide, None) == Moment("hard", 0.1)


def test_plain_data_parallel_training_waits_for_none_of_it(base_folder: Path):
    plugin = training(base_folder, options(stages=STAGES, repair=REPAIR)).plugin
    one = GuideOptions(online=True, share=1.0, pruning_layers=[1])
    still = {
        (None, 1.0): False,
        (None, 0.0): True,
        ("first", 1.0): True,
        ("online", 0.0): False,
        ("half", 0.0): True,
        ("half", 1.0): False,
        ("one", 0.0): True,
        ("one", 1.0): False,
    }
    guides = {None: None, "first": GuideOptions(), "online": ONLINE,
              "half": GuideOptions(online=True, share=0.5), "one": one}
    found = {
        (name, rate): parts_stand_still(plugin, guides[name], None, rate) for name, rate in still
    }
    assert found == still
    assert parts_stand_still(plugin, None, PolicyOptions(1.0), 1.0)


def test_samples_without_an_image_teach_nothing(base_folder: Path, tmp_path: Path):
    turns = [{"from": "human", "value": "how many ?"}, {"from": "gpt", "value": "two"}]
    rows = [conversation(n, image=None, conversations=turns) for n in range(4)]
    path = write_conversations(tmp_path / "text.json", rows)
    seen = one_step(base_folder, path, tmp_path, guide=ONLINE)
    pruners = [g for name, g in seen.plugin.items() if name.startswith("pruners.")]
    assert pruners and all(g is not None and not g.any() for g in pruners)
    assert seen.logged["train/guide"] == 0


def test_retention_beside_an_online_guide_is_refused(base_folder: Path):
    with pytest.raises(rcp.UserError, match="model.retention .* online guide .* null"):
        training(base_folder, options(stages=STAGES), guide=ONLINE, retention=RetentionOptions())


@pytest.mark.parametrize("said", ["online", '{"online": true, "share": 1.0}'])
def test_it_is_said_in_one_word(
    said: str, base_folder: Path, conversations: Path, tmp_path: Path
):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(base_folder, conversations, tmp_path)))
    assert train.main(["--config", str(config), "--model.guide", said]) == 0
    told = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["rcp"]["training"]
    assert told["guide"] == {"layer": None, "share": 1.0, "online": True, "pruning_layers": None,
                             "form": "log", "sinks": None, "learning_rate": 1e-3}


def test_another_word_is_refused(
    base_folder: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(base_folder, conversations, tmp_path)))
    assert train.main(["--config", str(config), "--model.guide", "offline"]) == 2
    assert "online" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
