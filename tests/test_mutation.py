"""The errors that ``make mutate`` puts in: which there are, and that their names last."""

from pathlib import Path

import pytest

from tests.mutation.__main__ import sample
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import Mutant, mutants, mutated
from tests.mutation.relevant import OF_ALL, OF_ROOM
from tests.mutation.runner import tried
from tests.mutation.score import page, score

SOURCE = '''"""Says 1 + 1."""
from x import y

@wrapped(3)
def f(a: int | None = 2) -> dict[str, 4]:
    """Says 2."""
    assert a == 1, "one"
    if not a:
        raise Error(f"{a + 1}")
    b = a.clamp(min=0)
    b += 5
    y(b)
    if b:
        return None
    return a < b and True
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "source.py"
    file.write_text(SOURCE)
    return file


def test_what_is_said_stays_and_what_is_computed_changes(file: Path):
    whats = [m.name.rsplit("  [", 1)[1].split("]")[0] for m in mutants(file)]
    assert sorted(whats) == sorted([
        "2 + 1", "2 - 1", "if not", "without Not", "left out", "without clamp", "without min=",
        "0 + 1", "0 - 1", "left out", "5 + 1", "5 - 1", "left out", "returns None", "Or", "LtE",
        "False", "if not",
    ])


def test_each_puts_one_error_in(file: Path):
    sources = [mutated(mutant) for mutant in mutants(file)]
    for source in sources:
        assert '"""Says 2."""' in source and "a: int | None" in source
        assert "assert a == 1" in source and "@wrapped(3)" in source
    assert len(set(sources)) == len(sources)
    assert any("return a <= b and True" in source for source in sources)
    assert any("b = a\n" in source for source in sources)


def test_a_name_is_the_same_when_the_lines_above_it_have_moved(file: Path):
    before = {mutant.name: mutated(mutant) for mutant in mutants(file)}
    file.write_text("Z = {}\n\n" + SOURCE)
    after = {mutant.name: mutated(mutant) for mutant in mutants(file)}
    assert set(before) == set(after)
    with pytest.raises(ValueError, match="it was written since"):
        mutated(Mutant(str(file), 1, "gone", 99))


def test_a_sample_is_the_beginning_of_a_larger_one():
    few, many = ({m.name for m in all_of(sample(OF_ROOM, size))} for size in (50, 200))
    assert len(few) == 50 and len(many) == 200 and few < many
    repair = sample(["rcp/repair"], 200)
    assert list(repair) == ["rcp/repair"] and {m.name for m in all_of(repair)} < many
    assert all(m.file.startswith("rcp/repair/") for m in all_of(repair))


def all_of(drawn: dict[str, list[Mutant]]) -> list[Mutant]:
    return [mutant for room in drawn.values() for mutant in room]


def test_a_score_counts_what_a_test_could_tell():
    a, b, c, d = (Mutant("file", at, name, at) for at, name in enumerate("abcd"))
    results = {"a": "caught", "b": "survived", "c": "survived", "d": "caught", "other": "survived"}
    found = score({"one": [a, b], "two": [c, d]}, results, {"c": "it is dead", "e": "not drawn"})
    assert found["share_caught"] == 0.6667
    assert found["rooms"] == {
        "one": {"caught": 1, "survived": 1, "equivalent": 0},
        "two": {"caught": 1, "survived": 0, "equivalent": 1},
        "all": {"caught": 2, "survived": 1, "equivalent": 1},
    }
    assert found["survived"] == ["b"] and found["equivalent"] == {"c": "it is dead"}
    text = page(found)
    assert "| two | 2 | 1 | 0 | 1 |" in text and "| all | 4 | 2 | 1 | 1 |" in text
    assert "66.7%" in text and "- `b`\n" in text and "- `c`: it is dead\n" in text


def test_an_error_that_never_ends_is_caught(tmp_path: Path):
    endless = tmp_path / "test_endless.py"
    endless.write_text("def test_endless():\n    while True:\n        pass\n")
    assert not tried(str(endless), limit=1)[0]
    endless.write_text("def test_nothing():\n    pass\n")
    passed, seconds = tried(str(endless), limit=60)
    assert passed and 0 < seconds < 60


def test_what_is_listed_is_there():
    """An equivalent mutant whose line has changed must be looked at again."""
    names = {m.name for room in OF_ROOM for file in Path(room).rglob("*.py") for m in mutants(file)}
    assert set(EQUIVALENT) <= names
    tests = {test for room in OF_ROOM.values() for test in room} | set(OF_ALL)
    assert all(Path(test).is_file() for test in tests)
