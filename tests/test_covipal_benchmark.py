"""The CoViPAL benchmark: what each row is, what it skips, what it writes. Nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText

import rcp
from benchmarks import covipal, steps
from benchmarks.variants import read_configuration
from rcp.evaluation.comparison import Report
from rcp.training.phases import GuideOptions
from tests.test_benchmark_variants import FULL, plugin_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def model():
    config = AutoConfig.from_pretrained(ROOT / "data" / "tiny-vlm")
    return AutoModelForImageTextToText.from_config(config)


@pytest.fixture(scope="module")
def recipe():
    return read_configuration(ROOT / "configs" / covipal.RECIPE)


@pytest.mark.parametrize("name", [row.name for row in covipal.ALL])
def test_every_row_is_a_plugin_at_the_same_mean(name, recipe, model):
    variant, configuration = covipal.configurations(recipe)[name]
    assert variant.name == name
    plugin = plugin_of(configuration, model)
    assert plugin.mean_ratio == pytest.approx(1 / 9, rel=0.01)
    if configuration["model"]["guide"] is not None:
        GuideOptions(**configuration["model"]["guide"]).pruning(plugin.schedule)


def test_the_stages_alone_are_as_long_as_in_both(recipe):
    steps_in_both = recipe["trainer"]["max_steps"]
    assert covipal.GUIDED_STEPS + covipal.END_TO_END_STEPS == steps_in_both
    share = recipe["model"]["guide"]["share"]
    assert round(share * steps_in_both) == covipal.GUIDED_STEPS


def test_the_composed_row_is_rcp_behind_covipal(recipe):
    rows = covipal.configurations(recipe)
    composed, alone = (rows[name][1]["model"]["plugin"] for name in ("covipal_rcp", "rcp"))
    assert [s["method"] for s in composed["stages"]] == ["covipal", "rcp", "rcp"]
    shares = [[(s["layer"], s["ratio"]) for s in p["stages"]] for p in (composed, alone)]
    assert shares[0] == shares[1] and composed["repair"] == alone["repair"] is not None


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, model):
    """Stand-ins that leave what training and export leave; returns what was done."""
    done: list[str] = []

    def script(name, *arguments):
        if name == "train.py":
            run = Path(arguments[arguments.index("--run_folder") + 1])
            run.mkdir(parents=True)
            done.append(f"{run.parent.name}/{run.name}")
        else:
            run = Path(arguments[1]).parent
            configuration = read_configuration(run.parent / "recipe.yaml")
            rcp.save_plugin(plugin_of(configuration, model), Path(arguments[-1]))

    def evaluation(arguments):
        done.append("evaluate")
        output = Path(arguments[arguments.index("--output") + 1])
        output.parent.mkdir(parents=True, exist_ok=True)
        at = arguments.index("--compare")
        named = dict.fromkeys(a.split("=")[0] for a in arguments[at:] if "=" in a)
        rows = [replace(FULL, method=name, accuracy=0.8) for name in ["covipal", *named]]
        return Report([FULL, *rows], ["measured so"])

    monkeypatch.setattr(steps, "run_script", script)
    monkeypatch.setattr(steps.cli, "run", evaluation)
    return done


def test_it_writes_rows_and_tables_and_skips_what_is_done(scripts, tmp_path: Path):
    output = tmp_path / "out.json"
    arguments = ["--runs", str(tmp_path / "runs"), "--output", str(output), "--seeds", "2",
                 "--rows", "covipal", "stage_1_only", "text_free", "rcp"]
    assert covipal.main(arguments) == 0
    assert scripts == ["stage_1_only/seed0", "stage_1_only/seed1", "covipal/seed0",
                       "covipal/seed1", "text_free/seed0", "rcp/seed0", "rcp/seed1", "evaluate"]
    methods = [row["method"] for row in json.loads(output.read_text())]
    assert methods == ["full", "covipal", "stage_1_only", "text_free", "rcp", "oracle"]
    page = output.with_suffix(".md").read_text()
    assert "+0.0 points against covipal" in page and "without the question" in page
    oracle = rcp.load_plugin(tmp_path / "runs" / "oracle")
    assert oracle.spec.stages[0].arguments == {"layers": [9]}
    assert oracle.schedule.ratios == (0.1111,)
    scripts.clear()
    assert covipal.main(arguments) == 0 and scripts == []
