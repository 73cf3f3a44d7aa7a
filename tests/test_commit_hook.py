"""The hook that CONTRIBUTING.md names measures the subject of a commit, and nothing else."""

import subprocess

import pytest

from tests.documents import ROOT


def run(message, folder):
    file = folder / "COMMIT_EDITMSG"
    file.write_text(message, encoding="utf-8")
    hook = [str(ROOT / ".githooks" / "commit-msg"), str(file)]
    return subprocess.run(hook, capture_output=True, text=True)


@pytest.mark.parametrize("message", ["x" * 72, "é" * 72, f"short\n\n{'x' * 90}",
                                     f"\n# {'x' * 90}\nshort"])
def test_a_short_subject_passes(message, tmp_path):
    done = run(message, tmp_path)
    assert done.returncode == 0 and not done.stderr


def test_a_long_subject_is_refused_with_its_length(tmp_path):
    done = run(f"# of the editor\n{'x' * 73}\n\nwhy", tmp_path)
    assert done.returncode == 1 and "73 characters, and at most 72" in done.stderr
