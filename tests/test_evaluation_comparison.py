"""Timing, pooling over seeds, and what is written."""

import json
import math
import os
from dataclasses import fields, replace

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import rcp
from rcp.backbones import backbone_for
from rcp.conversations import ConversationDataset, Sample
from rcp.evaluation import prefill
from rcp.evaluation.answers import Answer
from rcp.evaluation.comparison import Timing, compare
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.generation import Questions
from rcp.evaluation.metrics.occupancy import Occupancy
from rcp.evaluation.metrics.tally import Tally
from rcp.evaluation.report import rows, tables
from rcp.evaluation.report.rows import ResultRow
from rcp.evaluation.scoring import ExactMatchScoring
from rcp.objectives.exact_match import ExactMatch
from tests.full_disk import full_disk
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS, randomised
from tests.tiny_base import LAYERS

pytest_plugins = ["tests.training_fixtures"]

SCHEMA = [
    "method",
    "accuracy",
    "accuracy_std",
    "by_type",
    "retained",
    "mean_tokens",
    "entering_tokens",
    "flops",
    "kv_bytes",
    "prefill_speedup",
    "seeds",
    "n",
    "unreadable",
    "interval",
    "mcnemar_p",
    "figures",
    "metric",
    "percent",
    "tokens_per_layer",
    "kv_bytes_per_layer",
]
ROW = ResultRow("rcp", 0.5, 0.1, {"counting": 0.25}, 0.8, 8.5, 16.0, 2e9, 1024, 1.5, 3, 40)


@pytest.fixture
def asked(base_folder, conversations):
    model = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    processor = AutoProcessor.from_pretrained(base_folder)
    dataset = ConversationDataset(conversations)
    return Questions(backbone_for(model), processor, dataset, limit=4, max_new_tokens=2)


def rcp_plugin(model, seed=3, layers=(1, 3), ratios=(0.5, 0.125)):
    stages = [rcp.StageSpec(at, r, "rcp", dict(RCP_ARGUMENTS)) for at, r in zip(layers, ratios)]
    spec = rcp.PluginSpec(stages, rcp.RepairSpec([LAYERS - 1], "film", FILM_ARGUMENTS))
    return randomised(rcp.Plugin.for_model(spec, model), seed)


class Counted:
    """Stands in for a tally of forty answers, of which the first ones are right."""

    scoring = ExactMatchScoring()

    def __init__(self, accuracy):
        self.accuracy = accuracy
        self.metric, self.percent = "accuracy", True
        self.scores = [1.0] * round(40 * accuracy) + [0.0] * round(40 * (1 - accuracy))
        self.figures = {"accuracy": accuracy, "accuracy_never": math.nan}
        self.by_type = {"counting": accuracy / 2}
        self.samples = 40
        self.visual = [16.0, 4.0]
        self.mean_tokens = 10.0
        self.flops = 1000.0
        self.kv_bytes = 64.0
        self.kv_bytes_per_layer = [48.0, 16.0 * accuracy]


def test_seeds_are_pooled():
    full = Counted(0.8)
    row = rows.pooled("rcp", [Counted(0.6), Counted(0.7), Counted(0.5)], full, 50.0, 2.0)
    assert (row.accuracy, row.accuracy_std) == (0.6, 0.1)  # the sample's deviation
    assert row.retained == 0.75 and row.by_type == {"counting": 0.3}
    assert (row.entering_tokens, row.mean_tokens, row.flops) == (16.0, 10.0, 1050)
    assert (row.seeds, row.n, row.prefill_speedup) == (3, 40, 2.0)
    assert row.figures == {"accuracy": 0.6, "accuracy_never": None} and row.metric == "accuracy"
    assert row.tokens_per_layer == [16.0, 4.0] and row.kv_bytes_per_layer == [48.0, 9.6]


def test_a_row_is_paired_with_the_full_models():
    """Over the seeds 24 of 40 have a mean score of at least a half, 32 of the full model's."""
    full = Counted(0.8)
    row = rows.pooled("rcp", [Counted(0.6), Counted(0.7), Counted(0.5)], full, 50.0, 2.0)
    assert row.mcnemar_p == float(f"{2 / 2**8:.4g}")  # eight lost, none gained
    low, high = row.interval
    assert low < -0.2 < high < 0  # about the difference of the mean scores
    assert Counted.scoring.percent and row.percent


class Pairs(ExactMatchScoring):
    """A set in points, whose sum needs both questions of an image."""

    primary = "points"
    percent = False

    def figures(self, answers, samples):
        points = math.nan if len(samples) % 2 else 100.0 * len(samples)
        return {"points": points, "asked": float(len(samples))}


@pytest.mark.parametrize(
    "count, told", [(2, ("points", 200.0, False)), (3, ("mean score", 2 / 3, True))]
)
def test_a_part_of_a_set_that_has_no_figure_is_told_by_its_mean_score(count, told):
    samples = [Sample(str(n), (), "what?", "red", "colour") for n in range(count)]
    said = ["red", "blue", "red"][:count]
    answers = [Answer(n, text, Occupancy(4, 2), 8.0, 1.0) for n, text in enumerate(said)]
    tally = Tally(None, Pairs(), samples, answers)
    assert (tally.metric, tally.accuracy, tally.percent) == pytest.approx(told)


def test_the_full_model_is_not_paired_with_itself():
    full = Counted(0.8)
    row = rows.pooled("full", [full], full, 0.0, 1.0)
    assert row.accuracy_std == 0.0 and row.interval is None and row.mcnemar_p is None


def test_what_one_question_says_has_no_interval():
    full, other = Counted(0.8), Counted(0.8)
    full.scores, other.scores = [1.0], [0.0]
    row = rows.pooled("rcp", [other], full, 0.0, 1.0)
    assert row.interval is None and row.mcnemar_p == 1.0


def test_rows_have_the_promised_fields_in_order(tmp_path):
    assert [field.name for field in fields(ResultRow)] == SCHEMA
    rows.write_rows([ROW], tmp_path / "out" / "rows.json")
    (written,) = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert list(written) == SCHEMA
    assert ResultRow(**written) == ROW


def test_rows_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("the old ones")
    with full_disk(100), pytest.raises(rcp.UserError, match="cannot be written .*too large"):
        rows.write_rows([ROW], path)
    assert path.read_text() == "the old ones" and os.listdir(tmp_path) == ["rows.json"]


def test_exact_match_ignores_case_and_space_only():
    metric = ExactMatch(["a", "b"])
    metric.update([" Red ", "two", "2"], ["red", "two", "two"], ["a", "b", "b"])
    found = metric.compute()
    assert found["accuracy"].item() == pytest.approx(2 / 3)
    assert found["accuracy_a"].item() == 1.0 and found["accuracy_b"].item() == 0.5


def test_speedups_are_medians_of_interleaved_rounds(asked, monkeypatch):
    """The machine slows down tenfold half-way: taking turns, no ratio notices."""
    order = []
    paces = iter([1.0] * 4 + [1.0, 1.0, 10.0, 10.0, 10.0])  # two rounds of warm-up first

    def seconds(model, inputs):
        pruned = bool(model._forward_pre_hooks)
        if not pruned:
            seconds.pace = next(paces)
        order.append(pruned)
        return seconds.pace * (0.25 if pruned else 1.0)

    monkeypatch.setattr(prefill, "_seconds", seconds)
    model = asked.backbone.model
    contestants = [Contestant("full"), Contestant("rcp", rcp_plugin(model))]
    found = prefill.speedups(asked.prepare, contestants, asked.first(2), rounds=5)
    assert found == [1.0, 4.0]
    assert order == [False, True] * (prefill.WARM_UP + 5)


def test_prefills_that_are_timed_are_pruned_and_cached(asked, monkeypatch):
    lengths = []

    def watch(model, inputs):
        cache = prefill._prefill(model, inputs)
        lengths.append([layer.keys.shape[-2] for layer in cache.layers])
        return 1.0

    monkeypatch.setattr(prefill, "_seconds", watch)
    contestants = [Contestant("full"), Contestant("rcp", rcp_plugin(asked.backbone.model))]
    prefill.speedups(asked.prepare, contestants, asked.first(1), rounds=1)
    full, pruned = lengths[-2:]
    assert [a - b for a, b in zip(full, pruned)] == [0, 8, 8, 14]


def test_flops_beyond_the_decoder(asked):
    """None for the model itself, and for a method that multiplies no matrices."""
    backbone, sample = asked.backbone, asked.first(1)[0]
    stages = [rcp.StageSpec(1, 0.5, "uniform")]
    uniform = rcp.Plugin.for_model(rcp.PluginSpec(stages), backbone.model)
    contestants = [
        Contestant("full"),
        Contestant("uniform", uniform),
        Contestant("rcp", rcp_plugin(backbone.model)),
    ]
    full, control, learned = [
        prefill.plugin_flops(asked.prepare, contestant, sample) for contestant in contestants
    ]
    assert control == full == 0
    assert learned > 100_000
    encoders = [
        prefill.encoder_flops(asked.prepare, contestant, sample) for contestant in contestants
    ]
    assert encoders[0] == encoders[1] == encoders[2] > 100_000


def test_a_comparison_has_a_row_for_everyone(asked):
    model = asked.backbone.model
    entrants = [Contestant("rcp", rcp_plugin(model, seed)) for seed in (3, 4)]
    others = [Contestant("random_repair", rcp_plugin(model, 5))]
    report = compare(asked, entrants, others, seeds=2, timing=Timing(batch_size=2, rounds=1))
    found = {row.method: row for row in report.rows}
    assert list(found) == [
        "full",
        "rcp",
        "random_repair",
        "blank_image",
        "random",
        "uniform",
        "question_attention",
        "rcp_blind",
        "random_input",
        "uniform_input",
        "downsampled_input",
    ]
    assert found["full"].prefill_speedup == 1.0
    assert {(row.n, *row.by_type) for row in report.rows} == {(4, "attribute", "counting")}
    assert [found[name].seeds for name in ("rcp", "rcp_blind", "random", "uniform")] == [2, 2, 2, 1]
    entering = [found[name].entering_tokens for name in ("rcp", "random", "random_input")]
    assert entering == [16, 16, 9]
    assert found["downsampled_input"].entering_tokens == 8  # 2 x 4 of at most 8
    assert found["rcp"].kv_bytes == found["random"].kv_bytes < found["full"].kv_bytes
    assert found["rcp"].flops > found["question_attention"].flops > found["uniform"].flops


def test_without_controls_only_what_was_asked_for_runs(asked):
    entrants = [Contestant("rcp", rcp_plugin(asked.backbone.model))]
    report = compare(asked, entrants, controls=False, timing=Timing(1, 1))
    assert [row.method for row in report.rows] == ["full", "rcp"]


def test_nothing_is_dropped_twice_before_the_decoder(asked):
    """A single stage at layer 0 is its own input control."""
    plugin = rcp_plugin(asked.backbone.model, layers=(0,), ratios=(0.5,))
    report = compare(asked, [Contestant("rcp", plugin)], seeds=1, timing=Timing(1, 1))
    names = [row.method for row in report.rows]
    assert "random" in names and "random_input" not in names


def test_threshold_controls_get_what_was_really_kept(asked):
    plugin = rcp_plugin(asked.backbone.model)
    spec = rcp.PluginSpec(plugin.spec.stages, selection="threshold")
    threshold = randomised(rcp.Plugin.for_model(spec, asked.backbone.model), 4)
    for stage in (1, 3):  # keeps all at first, then what scores above the mean of its attention
        threshold.pruner(stage).bias.data.fill_(1000.0 if stage == 1 else -1000.0)
    report = compare(asked, [Contestant("rcp", threshold)], seeds=1, timing=Timing(1, 1))
    found = {row.method: row for row in report.rows}
    assert found["rcp"].mean_tokens == 12.0  # 16, 16, 16, 0: not the 8.5 of its ratios
    assert found["random"].mean_tokens == 12.0


def test_the_text_table_is_aligned():
    lines = tables.text(tables.summary([ROW, ROW])).splitlines()
    assert "50.0 ± 10.0" in lines[2] and "1.50x" in lines[2] and "2.000" in lines[2]
    assert len({len(line) for line in lines}) == 1


def test_a_figure_with_a_unit_of_its_own_is_not_made_a_percentage():
    mme = replace(ROW, metric="perception", percent=False, accuracy=1510.7, seeds=1)
    header, line = tables.summary([mme])
    assert header[1] == "perception" and line[1] == "1510.7" and line[2] == "80.0"


def test_the_difference_and_its_p_stand_in_the_table():
    against = replace(ROW, interval=[-0.0512, 0.0049], mcnemar_p=0.03515625)
    header, full, line = tables.summary([ROW, against])
    assert header[3:5] == ["95 % interval", "McNemar p"]
    assert full[3:5] == ["", ""] and line[3:5] == ["-5.1 to +0.5", "0.035"]


def test_the_markdown_table_has_as_many_cells_everywhere():
    lines = tables.markdown(tables.by_type([ROW])).splitlines()
    assert lines == ["| accuracy % | counting |", "| --- | ---: |", "| rcp | 25.0 |"]


@torch.no_grad()
def test_nothing_is_left_on_the_model(asked):
    model = asked.backbone.model
    compare(asked, [Contestant("rcp", rcp_plugin(model))], seeds=1, timing=Timing(1, 1))
    # not model.modules(): transformers itself hooks the vision tower to collect hidden states
    hooked = [model, asked.backbone.decoder, *asked.backbone.layers]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hooked)
