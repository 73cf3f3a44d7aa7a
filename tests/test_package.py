"""Promises about the package as a whole."""

import configparser
import subprocess
import sys
import time

import pytest
import torch

import rcp
from rcp.pruners import PRUNERS
from tests.documents import ROOT
from tests.tiny import attention_spec


def test_importing_rcp_stays_light():
    heavy = ("transformers", "huggingface_hub", "pytorch_lightning", "lightning", "deepspeed",
             "datasets", "peft")
    code = f"import sys, rcp; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


CONSOLE = "from rcp.__main__ import console; raise SystemExit(console())"
HELPS = {
    "rcp": ["-c", CONSOLE],
    "rcp evaluate": ["-c", CONSOLE, "evaluate"],
    "rcp export": ["-c", CONSOLE, "export"],
    "python -m rcp": ["-m", "rcp"],
    "export.py": ["export.py"],
    "evaluate.py": ["evaluate.py"],
}


@pytest.mark.parametrize("script", HELPS)
def test_help_does_not_wait_for_torch(script):
    """Importing it takes seconds."""
    command = [sys.executable, "-X", "importtime", *HELPS[script], "--help"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 5  # a tenth of a second where nothing else runs
    assert done.stdout.startswith(f"usage: {script} ")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rcp.errors" in imported and not imported & {"torch", "numpy", "transformers"}


@pytest.mark.parametrize("extra", ["train", "eval"])
def test_tables_are_read_with_either_extra(extra):
    """What opens them is imported late, by trainings and by published sets alike."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "datasets>=4" in config["options.extras_require"][extra].split()


def test_every_public_name_is_found_and_no_other():
    assert all(getattr(rcp, name) is not None for name in rcp.__all__)
    assert sorted(dir(rcp)) == sorted(rcp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'detach'"):
        rcp.detach


@pytest.fixture
def method_in_a_file(tmp_path, monkeypatch):
    """A method that lives in one file outside the package."""
    (tmp_path / "norm_pruner.py").write_text(
        "from rcp import Pruner\n"
        "class NormPruner(Pruner):\n"
        "    name = 'norm'\n"
        "    paper = 'an example'\n"
        "    needs = frozenset({'layer_input'})\n"
        "    def forward(self, view):\n"
        "        return view.given('layer_input').float().norm(dim=-1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import norm_pruner  # type: ignore[import-not-found]

    yield norm_pruner
    PRUNERS._classes.pop("norm")


def test_a_new_method_is_one_file(method_in_a_file, tiny_llava, inputs, tmp_path):
    assert "norm" in PRUNERS.names()
    spec = attention_spec()
    for stage in spec.stages:
        stage.method = "norm"
    plugin = rcp.Plugin.for_model(spec, tiny_llava)
    rcp.save_plugin(plugin, tmp_path / "plugin")
    with torch.no_grad(), rcp.attach(tiny_llava, rcp.load_plugin(tmp_path / "plugin"), "drop"):
        cache = tiny_llava(**inputs).past_key_values
    assert rcp.plan_of(cache).kept.tolist() == [[8, 8], [3, 3]]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(rcp.UserError, match="question_attention.*Choose one"):
        PRUNERS.get("os.system")


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(rcp.UserError, match="Rename one"):
        type("Impostor", (rcp.Pruner,), {"name": "rcp"})
