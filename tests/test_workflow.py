"""What runs by itself: lint and tests on each change, all tests at night."""

from pathlib import Path

import yaml

JOBS = yaml.safe_load(Path(".github/workflows/tests.yml").read_text())["jobs"]


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_every_command_is_a_target_of_the_makefile():
    targets = {line.split(":")[0] for line in Path("Makefile").read_text().splitlines()}
    assert commands("change") == ["make lint", "make test"]
    assert commands("nightly") == ["make test-all"]
    assert {line.removeprefix("make ") for job in JOBS for line in commands(job)} <= targets


def test_a_change_runs_on_the_oldest_python_there_is_and_the_next():
    assert JOBS["change"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
