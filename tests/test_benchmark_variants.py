"""Ablation and sweep: what each row changes, and that it can be trained. Nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText

import rcp
from benchmarks import ablation, steps, sweep
from benchmarks.variants import Variant, changed, read_configuration, validated_once
from rcp.backbones import backbone_for
from rcp.evaluation.comparison import Report
from rcp.evaluation.report.rows import ResultRow
from rcp.plugin.lora import LoraSpec
from rcp.training.options import PluginOptions
from rcp.training.phases import GuideOptions

ROOT = Path(__file__).parent.parent
FULL = ResultRow("full", 0.9, 0.0, {"counting": 0.9}, 1.0, 144.0, 144.0, 2e9, 2048, 1.0, 1, 40)
SWEPT = {f"{removed:g} {name}": variant for removed in sweep.REMOVED
         for name, variant in sweep.variants(removed).items()}
VARIANTS = {v.name: v for v in ablation.ROWS} | SWEPT | {sweep.MANY: sweep.many_budgets()}


@pytest.fixture(scope="module")
def recipe() -> dict[str, object]:
    return read_configuration(ROOT / "configs" / ablation.RECIPE)


@pytest.fixture(scope="module")
def model():
    """The embedded model's shape; random weights do here."""
    config = AutoConfig.from_pretrained(ROOT / "data" / "tiny-vlm")
    return AutoModelForImageTextToText.from_config(config)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


def plugin_of(configuration, model) -> rcp.Plugin:
    values = dict(configuration["model"]["plugin"])
    values["stages"] = [rcp.StageSpec(**stage) for stage in values["stages"]]
    if values.get("repair") is not None:
        values["repair"] = rcp.RepairSpec(**values["repair"])
    if values.get("lora") is not None:
        values["lora"] = LoraSpec(**values["lora"])
    return rcp.Plugin.for_model(PluginOptions(**values).spec_for(backbone_for(model)), model)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_plugin_at_its_budget(name: str, recipe, model):
    before = json.dumps(recipe)
    variant = VARIANTS[name]
    plugin = plugin_of(variant.of(recipe), model)
    wanted = variant.mean_ratio or plugin_of(recipe, model).mean_ratio
    assert plugin.mean_ratio == pytest.approx(wanted, rel=1e-3)
    assert any(True for _ in plugin.parameters())
    if (guide := variant.of(recipe)["model"].get("guide")) is not None:
        guided = GuideOptions(**guide).pruning(plugin.schedule)
        assert guided and all(plugin.pruner(layer).learned for layer in guided)
    assert json.dumps(recipe) == before


def test_rows_taught_by_another_change_nothing_of_the_pruners_it_has_taught(recipe):
    rows = {variant.name: variant for variant in ablation.ROWS}
    for variant in filter(lambda v: v.taught_by, ablation.ROWS):
        found, guided = variant.of(recipe), rows[variant.taught_by].of(recipe)
        assert found["model"]["guide"] is None and guided["model"]["guide"]["share"] == 1
        assert rows[variant.taught_by].seeds >= variant.seeds
        first, taught = (x["model"]["plugin"]["stages"][0] for x in (found, guided))
        assert {**first, "ratio": 0} == {**taught, "ratio": 0}


def test_rows_differ_from_the_recipe_and_from_each_other(recipe):
    found = [json.dumps(variant.of(recipe), sort_keys=True) for variant in ablation.ROWS]
    assert len(set(found)) == len(found)
    (reference,) = [variant for variant in ablation.ROWS if variant.name == "rcp"]
    share, steps = recipe["model"]["guide"]["share"], recipe["trainer"]["max_steps"]
    rest = round(steps * (1 - share))
    alone = {"model.guide": None, "trainer.max_steps": rest}
    assert reference.of(recipe) == changed(recipe, alone), "the guide has a row of its own"


def test_the_low_rank_adapters_are_of_the_repair_adapters_size(recipe, model):
    rows = {variant.name: variant for variant in ablation.ROWS}
    repair = plugin_of(recipe, model).repair
    lora = plugin_of(rows["lora"].of(recipe), model).lora
    assert repair is not None and lora is not None
    size, other = (sum(p.numel() for p in part.parameters()) for part in (repair, lora))
    assert other == pytest.approx(size, rel=0.05)


def test_changes_are_made_where_the_paths_say():
    found = changed({"a": {"b": 1}}, {"a.b": 2, "c.d": [3]})
    assert found == {"a": {"b": 2}, "c": {"d": [3]}}


def test_only_the_last_stage_is_random(recipe):
    stages = Variant("x", "", method="random", last_only=True).of(recipe)["model"]["plugin"][
        "stages"
    ]
    assert [stage["method"] for stage in stages] == ["rcp", "rcp", "random"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, model):
    """Stand-ins that leave what training and export leave; returns the folders trained."""
    trained: list[str] = []

    def script(name, *arguments):
        if name == "train.py":
            run = Path(arguments[arguments.index("--run_folder") + 1])
            run.mkdir(parents=True)
            trained.append(f"{run.parent.name}/{run.name}")
            return
        run = Path(arguments[1]).parent
        config = run.parent / "recipe.yaml"
        rcp.save_plugin(plugin_of(read_configuration(config), model), Path(arguments[-1]))

    def evaluation(arguments):
        output = Path(arguments[arguments.index("--output") + 1])
        output.parent.mkdir(parents=True, exist_ok=True)
        at = arguments.index("--compare") if "--compare" in arguments else None
        named = [a.split("=")[0] for a in arguments[at:] if "=" in a] if at else []
        # as evaluate.py does: the first one goes by its method, and equal names are seeds of one
        rows = [replace(FULL, method=m, seeds=2) for m in dict.fromkeys(["rcp", *named])]
        return Report([FULL, *rows], ["measured so"])

    monkeypatch.setattr(steps, "run_script", script)
    monkeypatch.setattr(steps.cli, "run", evaluation)
    return trained


def test_the_ablation_writes_table_and_figure_and_skips_what_is_done(scripts, tmp_path: Path):
    output = tmp_path / "out.json"
    arguments = ["--runs", str(tmp_path / "runs"), "--output", str(output),
                 "--rows", "rcp", "no_adapter", "w2", "--seeds", "2"]
    assert ablation.main(arguments) == 0
    assert scripts == ["no_adapter/seed0", "no_adapter/seed1", "rcp/seed0", "rcp/seed1", "w2/seed0"]
    rows = json.loads(output.read_text())["rows"]
    assert [row["name"] for row in rows] == ["full", "no_adapter", "rcp", "w2"]
    assert rows[2]["parameters"] > rows[1]["parameters"] > 0 == rows[0]["parameters"]
    assert "no repair adapter" in output.with_suffix(".md").read_text()
    assert output.with_suffix(".png").stat().st_size > 1000
    scripts.clear()
    assert ablation.main(arguments) == 0 and scripts == []


def test_the_sweep_marks_the_curve_before_the_decoder(scripts, tmp_path: Path):
    output = tmp_path / "out.json"
    arguments = ["--runs", str(tmp_path / "runs"), "--output", str(output),
                 "--removed", "88.9", "94.4", "--seeds", "1"]
    assert sweep.main(arguments) == 0
    assert scripts == ["guided_inside/seed0", "rcp/seed0", "random_repair/seed0",
                       "many_budgets/seed0", "guided_before/seed0", "rcp/seed0",
                       "random_repair/seed0"]
    found = json.loads(output.read_text())["removed"]
    assert [row["method"] for row in found["88.9"]] == ["full", "rcp", "random_repair", sweep.MANY]
    assert [row["method"] for row in found["94.4"]] == ["full", "rcp", "random_repair"]
    assert "94.4 % removed, first stage before the decoder" in output.with_suffix(".md").read_text()
    assert output.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize("variant", ablation.ROWS, ids=lambda variant: variant.name)
def test_no_row_is_exported_before_its_end(variant, recipe):
    trainer = validated_once(variant.of(recipe))["trainer"]
    assert trainer["val_check_interval"] == trainer["max_steps"]
