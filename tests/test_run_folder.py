"""What a run's folder says of the code that ran."""

import subprocess
from pathlib import Path

import pytest

from rcp.training.run import folder


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    command = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("place", [".", "package", "package/room/cellar"])
def test_the_state_of_the_code_names_files_from_the_root(place: str, tmp_path, monkeypatch):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    code = tmp_path / place / "folder.py"
    monkeypatch.setattr(folder, "__file__", str(code))
    assert folder._git_state() == ""  # no repository
    git(tmp_path, "init", "--quiet")
    for file in (code, tmp_path / "train.py", tmp_path / "untouched.py"):
        file.write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "Begin")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert len(head) == 40 and folder._git_state() == head
    code.write_text("2\n")
    (tmp_path / "train.py").write_text("2\n")
    (tmp_path / "new.py").write_text("2\n")
    changed = sorted([str(code.relative_to(tmp_path)), "train.py"])
    assert folder._git_state().split("\n") == [head, *(f" M {name}" for name in changed)]
