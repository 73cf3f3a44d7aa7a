"""Whatever looks at questions reads them from files and from Hugging Face data sets alike."""

import json
from pathlib import Path

import pytest

import evaluate
import rcp
from rcp.__main__ import main
from rcp.base_model.loading import load_base
from tests.tiny import RCP_ARGUMENTS, randomised

datasets = pytest.importorskip("datasets")
pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BASE = ["--base", "{base}", "--dtype", "float32", "--limit", "4"]
PLUGIN = ["--plugin", "{plugin}"]
COMMANDS = {
    "evaluate": [*PLUGIN, "--limit", "4", "--no-controls", "--max-new-tokens", "2", "--output"],
    "diagnose": [*PLUGIN, "--limit", "4", "--output"],
    "show": [*PLUGIN, "--samples", "2", "--max-new-tokens", "2", "--output"],
    "horizon": [*BASE, "--output"],
    "guide-layer": [*BASE, "--budget", "4", "--max-new-tokens", "2", "--plot"],
}


@pytest.fixture
def sources(conversations: Path, tmp_path: Path) -> list[str]:
    """The conversations as files, and as what ``save_to_disk`` and ``to_parquet`` write."""
    rows = json.loads(conversations.read_text())
    for row in rows:
        row["image"] = str(conversations.parent / row["image"])
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "rows.parquet")
    return [str(conversations), str(tmp_path / "saved"), str(tmp_path / "rows.parquet")]


@pytest.fixture
def plugin(base_folder: Path, tmp_path: Path) -> Path:
    model, _ = load_base(str(base_folder), "float32")
    spec = rcp.PluginSpec([rcp.StageSpec(1, 0.25, "rcp", dict(RCP_ARGUMENTS))])
    rcp.save_plugin(randomised(rcp.Plugin.for_model(spec, model)), tmp_path / "plugin")
    return tmp_path / "plugin"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_data_set_tells_what_its_files_tell(
    name: str, sources: list[str], plugin: Path, base_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    output = tmp_path / "output"
    arguments = [part.format(plugin=plugin, base=base_folder) for part in COMMANDS[name]]
    found = []
    for source in sources:
        given = [*arguments, str(output), "--data", source]
        assert (evaluate.main(given) if name == "evaluate" else main([name, *given])) == 0
        said = capsys.readouterr().out
        if name == "evaluate":  # the time of a prefill is another each time
            rows = json.loads(output.read_text())
            said = str([{**row, "prefill_speedup": None} for row in rows])
        found.append(said)
    assert found[0] and found == [found[0]] * 3


@pytest.mark.parametrize("name", COMMANDS)
def test_a_data_set_that_is_not_there_is_told(
    name: str, plugin: Path, base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [part.format(plugin=plugin, base=base_folder) for part in COMMANDS[name]]
    given = [*arguments, str(tmp_path / "output"), "--data", "hf:"]
    assert (evaluate.main(given) if name == "evaluate" else main([name, *given])) == 2
    assert "The data set 'hf:' cannot be opened" in capsys.readouterr().err
