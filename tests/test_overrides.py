"""Overrides of a configuration: the command line wins, in whatever order its parts stand."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from rcp.errors import UserError
from rcp.training.run.cli import read_configuration
from tests.cli import settings

pytest_plugins = ["tests.training_fixtures"]

FIRST = {
    "run_folder": "first",
    "seed_everything": 3,
    "model": {"base": "a-base", "plugin": {"stages": [{"layer": 1, "ratio": 0.25}]}},
    "data": {"train": "t.json", "val": "v.json", "batch_size": 4},
    "trainer": {"max_steps": 2},
}
SECOND = {"data": {"batch_size": 5}, "trainer": {"max_steps": 6}}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two configurations, and one of the data alone."""
    for name, content in (("first", FIRST), ("second", SECOND), ("data", {"batch_size": 7})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {name: str(tmp_path / f"{name}.yaml") for name in ("first", "second", "data")}


def read(*arguments: str) -> Any:
    return read_configuration(arguments)


OVERRIDES = {
    "run_folder": (["--run_folder", "mine"], lambda c: c.run_folder, "mine"),
    "batch": (["--data.batch_size=9"], lambda c: c.data.batch_size, 9),
    "seed": (["--seed_everything", "8"], lambda c: c.seed_everything, 8),
    "steps": (["--trainer.max_steps", "-1"], lambda c: c.trainer.max_steps, -1),
    "stages": (
        ["--model.plugin.stages", "[{layer: 2, ratio: 0.5}]"],
        lambda c: c.model.plugin.stages[0].layer,
        2,
    ),
    "part": (["--trainer", "{max_steps: 11}"], lambda c: c.trainer.max_steps, 11),
}


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("spelling", ["--config {}", "--config={}", "-c {}", "-c={}", "-c{}"])
def test_an_override_wins_before_and_behind_a_configuration(name, spelling, files):
    given, value, expected = OVERRIDES[name]
    config = spelling.format(files["first"]).split(" ")
    for arguments in ([*given, *config], [*config, *given]):
        assert value(read(*arguments)) == expected, arguments


def test_every_order_of_two_configurations_and_two_overrides_means_the_same(files):
    parts = [["--config", files["first"]], ["--config", files["second"]],
             ["--run_folder", "mine"], ["--data.batch_size", "9"]]
    for order in itertools.permutations(parts):
        found = read(*itertools.chain(*order))
        latest = [part[1] for part in order if part[0] == "--config"][-1]
        assert (found.run_folder, found.data.batch_size) == ("mine", 9)
        assert found.trainer.max_steps == (6 if latest == files["second"] else 2)


def test_a_configuration_of_a_part_stands_between_whole_ones_and_overrides(files):
    parts = [["--config", files["first"]], ["--data", files["data"]]]
    for order in itertools.permutations(parts):
        assert read(*itertools.chain(*order)).data.batch_size == 7
    for order in itertools.permutations([*parts, ["--data.batch_size", "9"]]):
        assert read(*itertools.chain(*order)).data.batch_size == 9


def test_the_later_of_two_equal_overrides_counts(files):
    found = read("--run_folder", "one", "--config", files["first"], "--run_folder", "two")
    assert found.run_folder == "two"


def test_the_environment_never_overwrites_the_command_line(files, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_FIT__RUN_FOLDER", "of the environment")
    monkeypatch.setenv("PL_FIT__DATA__BATCH_SIZE", "12")
    found = read("--run_folder", "mine", "--config", files["first"])
    assert (found.run_folder, found.data.batch_size) == ("mine", 4)


def test_a_configuration_without_a_name_is_told():
    with pytest.raises(UserError, match="-c/--config: expected one argument"):
        read("--run_folder", "mine", "--config")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_goes_where_the_command_line_says(base_folder, conversations, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(base_folder, conversations, tmp_path)))
    assert train.main(["--run_folder", str(tmp_path / "mine"), "-c", str(config)]) == 0
    assert (tmp_path / "mine" / "last.ckpt").exists() and not (tmp_path / "run").exists()
