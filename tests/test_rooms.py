"""Promises about the rooms of the package that its import contracts cannot keep."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rcp"
NO_MODULES = {"rcp.detach", "rcp.md"}  # a name that must not be there, and a file
NAMES = re.compile(r"(?<![\w./-])rcp(?:\.[A-Za-z_]\w*)+")
FILES = re.compile(r"\brcp/[\w/]+\.py\b")
MODULES = {file.with_suffix(""): file for file in PACKAGE.rglob("*.py")}

TOUCHES_A_MODEL = re.compile(
    r"register_(module_)?(forward|full_backward)"         # a hook
    r"|\b(set|del)attr\((host|model|layer|module)\b"      # a method in place of another
    r"|\b(host|model|layer|module)\.(__class__|__dict__\[.*\]|forward|generate|get_\w+) = "
    r"|\bMethodType\("
)


def test_only_attaching_touches_a_model():
    touching = {f for f in PACKAGE.rglob("*.py") if TOUCHES_A_MODEL.search(f.read_text("utf-8"))}
    assert {file.relative_to(PACKAGE).parts[0] for file in touching} == {"attaching"}


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / "attaching").rglob("*.py")), ids=lambda file: file.stem
)
def test_what_touches_a_model_is_small(file):
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert sum(isinstance(part, ast.FunctionDef) for part in node.body) <= 15, node.name


def test_what_is_there_is_asked_without_an_error():
    """``os.path.isfile`` is False of a name that is too long, where ``Path.is_file`` raises."""
    asking = re.compile(r"\.(is_file|is_dir|is_symlink|exists)\(\)")
    assert not {file for file in PACKAGE.rglob("*.py") if asking.search(file.read_text("utf-8"))}


@pytest.mark.parametrize(
    "room", sorted({file.parent for file in MODULES.values()}), ids=lambda room: room.name
)
def test_every_room_says_in_a_sentence_what_it_knows(room):
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8")))
    assert said and said.partition("\n")[0].endswith(".")


def test_every_module_that_a_text_names_is_there():
    """Docstrings, README and configurations name modules by dots, and files by path."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    lost = set()
    for name in listed.stdout.splitlines():
        if not name.endswith((".py", ".md", ".cfg", ".yaml", ".sh", "Makefile")):
            continue
        text = (ROOT / name).read_text("utf-8") if (ROOT / name).exists() else ""
        lost |= {f"{name}: {path}" for path in FILES.findall(text) if not (ROOT / path).exists()}
        lost |= {f"{name}: {path}" for path in NAMES.findall(text) if not _is_there(path)}
    assert not lost


def _is_there(path: str) -> bool:
    """Whether ``path``, such as rcp.choosing.view.View, is a module or a name in one."""
    if path in NO_MODULES:
        return True
    names, at = path.split(".")[1:], PACKAGE
    while names and at / names[0] in MODULES or names and (at / names[0]).is_dir():
        at = at / names.pop(0)
    file = MODULES.get(at, at / "__init__.py")
    return not names or re.search(rf"\b{names[0]}\b", file.read_text("utf-8")) is not None
