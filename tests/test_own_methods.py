"""A method from one file of the user's own is a method like any other."""

import json
import subprocess
import sys

import pytest
import torch

import evaluate
import rcp
from rcp.__main__ import main
from rcp.extensions import import_files
from rcp.pruners import PRUNERS
from tests.tiny import tiny_inputs

pytest_plugins = ["tests.training_fixtures"]

METHOD = '''
"""The largest tokens."""

from torch import Tensor
from rcp import Pruner, View


class LargestPruner(Pruner):
    """Keeps the tokens with the largest norm."""

    name = "largest"
    paper = "an example"
    needs = frozenset({"layer_input"})

    def forward(self, view: View) -> Tensor:
        return view.given("layer_input").float().norm(dim=-1)
'''


@pytest.fixture
def own_method(tmp_path):
    file = tmp_path / "largest.py"
    file.write_text(METHOD)
    yield file
    PRUNERS._classes.pop("largest", None)
    sys.modules.pop("imported_largest", None)


def test_it_is_listed_attached_exported_and_evaluated(
    own_method, tiny_llava, tmp_path, capsys, base_folder, conversations
):
    assert main(["pruners", "--json", "--import", str(own_method)]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["largest"]["paper"] == "an example"
    assert listed["largest"]["needs"] == ["layer_input"]
    plugin = rcp.Plugin.for_model(rcp.PluginSpec([rcp.StageSpec(0, 0.5, "largest")]), tiny_llava)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    loaded = rcp.load_plugin(tmp_path / "plugin")
    with torch.no_grad(), rcp.attach(tiny_llava, loaded) as handle, handle.trace() as trace:
        tiny_llava(**tiny_inputs())
    assert trace.plan.kept.tolist() == [[8, 8]]
    rows = tmp_path / "rows.json"
    line = f"--pruner largest --budget 0.5 --no-controls --max-new-tokens 2 --import {own_method}"
    places = ["--base", str(base_folder), "--data", str(conversations), "--output", str(rows)]
    assert evaluate.main([*line.split(), *places]) == 0
    table = {row["method"]: row for row in json.loads(rows.read_text())}
    assert table["largest"]["entering_tokens"] == 8.0 and "largest" in capsys.readouterr().out


def test_the_contract_matrix_meets_it(own_method):
    """Registered before collection, it gets its row of the matrix without a line of test."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "largest",
         "tests/test_selection.py", "-k", "largest"],
        capture_output=True, text=True, env={"PYTHONPATH": str(own_method.parent)}, timeout=300,
    )
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_a_folder_alone_never_imports(own_method, tiny_llava, tmp_path):
    import_files([own_method])
    plugin = rcp.Plugin.for_model(rcp.PluginSpec([rcp.StageSpec(0, 0.5, "largest")]), tiny_llava)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    PRUNERS._classes.pop("largest")
    with pytest.raises(rcp.UserError, match="no pruner called 'largest'.*--import FILE"):
        rcp.load_plugin(tmp_path / "plugin")


def test_a_need_that_no_view_has_is_refused(own_method, tiny_llava):
    own_method.write_text(METHOD + "    needs = frozenset({'entropy'})\n")
    import_files([own_method])
    plugin = rcp.Plugin.for_model(rcp.PluginSpec([rcp.StageSpec(0, 0.5, "largest")]), tiny_llava)
    with pytest.raises(rcp.UserError, match="'entropy'.*question_attention"):
        rcp.attach(tiny_llava, plugin)


def test_a_method_does_not_take_the_place_of_ours(own_method):
    """Whose class is called like ours, too, would decide by the order of imports which is used."""
    text = METHOD.replace("LargestPruner", "RandomPruner").replace('"largest"', '"random"')
    own_method.write_text(text)
    with pytest.raises(rcp.UserError, match="Two classes claim the pruner name 'random'"):
        import_files([own_method])
    assert PRUNERS.get("random").__module__ == "rcp.pruners.random"


def test_bad_files_are_refused(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module")
    for name in ("none.py", f"{'x' * 5000}.py", ""):
        with pytest.raises(rcp.UserError, match="no such Python file"):
            import_files([tmp_path / name])
    with pytest.raises(rcp.UserError, match="no_such_module"):
        import_files([broken])
    assert "imported_broken" not in sys.modules
