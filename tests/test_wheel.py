"""The wheel that `pip wheel` builds, without an index."""

import configparser
import shutil
import subprocess
import sys
import zipfile

import pytest

from rcp.version import __version__
from tests.documents import ROOT

pytest.importorskip("setuptools", minversion="70.1")  # the first that builds wheels by itself


def test_it_holds_modules_the_parts_of_reports_the_mark_of_types_and_the_script(tmp_path):
    """Of a copy: building leaves folders beside the source."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "rcp", source / "rcp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = ["wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([sys.executable, "-m", "pip", *command, "--wheel-dir", str(tmp_path)],
                   cwd=source, check=True)
    with zipfile.ZipFile(tmp_path / f"rcp-{__version__}-py3-none-any.whl") as wheel:
        entries = configparser.ConfigParser()
        entries.read_string(wheel.read(f"rcp-{__version__}.dist-info/entry_points.txt").decode())
        held = {name for name in wheel.namelist() if name.startswith("rcp/")}
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "rcp").rglob("*.py")}
    page = ROOT / "rcp" / "evaluation" / "report"
    parts = {file for folder in ("assets", "templates") for file in (page / folder).iterdir()}
    parts = {str(file.relative_to(ROOT)) for file in parts}
    assert len(parts) > 9 and held == modules | parts | {"rcp/py.typed"}
    assert entries["console_scripts"]["rcp"] == "rcp.__main__:console"
