"""check-data, training and evaluation are of one mind on data that something is wrong with.

What check-data passes, evaluation reads and training trains on; what it names, evaluation leaves
out and training passes over, in the same words. Or all of them refuse the whole, in the same words.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcp import UserError
from rcp.conversations import ConversationCollator
from rcp.conversations.checks import Findings, Thoroughness, check_file, check_table
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.stream import StreamedTable
from rcp.conversations.table import TableDataset
from rcp.conversations.unreadable import Filling, WithStandIns, read
from tests.mangled_data import damaged, image_bytes, row, write_images, write_rows
from tests.test_unreadable import strict_processor

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

LONGEST = 60
"""Tokens: an image has 16."""


def collator() -> ConversationCollator:
    processor = strict_processor()
    processor.video_token = "<|pad|>"
    return ConversationCollator(processor, LONGEST)


def outcome(act: Callable[[], Any]) -> tuple[Any, str]:
    """What ``act`` gives, or the sentence by which it refuses; anything else fails the test."""
    try:
        return act(), ""
    except UserError as refusal:
        assert_sentence(str(refusal))
        return None, str(refusal)


def assert_sentence(told: str) -> None:
    """In one line, without control characters, and no longer than its parts may be."""
    assert told.isprintable() and len(told) < 1500, told


def agree(found: Findings, dataset: ConversationDataset, collate: ConversationCollator) -> None:
    """``found`` by check-data is what evaluation and training make of ``dataset``."""
    named = [entry.why for entry in [*found.problems, *found.too_long]]
    for told in named:
        assert_sentence(told)
    sound = [sample.id for sample in found.samples]
    evaluated = read(dataset, range(len(dataset)), collate)
    assert [item.sample.id for item in evaluated.items] == sound
    faults = [*dataset.unreadable, *evaluated.faults]
    assert sorted(map(str, faults)) == sorted(named)
    if sound:
        assert evaluated.batch is not None and evaluated.batch["ids"] == sound
    places = WithStandIns(dataset)
    batch, refusal = outcome(lambda: Filling(collate)([places[n] for n in range(len(places))]))
    if not sound:
        assert batch is None and any(told in refusal for told in named)
        return
    own = [name for name, is_own in zip(batch["ids"], batch["own"]) if is_own]
    assert own == sound and set(batch["ids"]) == set(sound)
    passed_over = {skipped.why for skipped in batch["skipped"]}
    assert passed_over == {str(fault) for fault in evaluated.faults}


def try_file(seed: int, folder: Path, collate: ConversationCollator) -> None:
    path = write_rows(random.Random(f"file {seed}"), folder)
    dataset, refusal = outcome(lambda: ConversationDataset(path))
    if refusal:
        assert outcome(lambda: ConversationDataset(path))[1] == refusal
        return
    agree(check_file(dataset, Thoroughness(True, collate)), dataset, collate)
    undecoded = check_file(dataset, Thoroughness(False))
    decoded = check_file(dataset, Thoroughness(True))
    assert {entry.row for entry in undecoded.problems} <= {entry.row for entry in decoded.problems}


def try_table(seed: int, folder: Path, collate: ConversationCollator) -> bool:
    """Whether the rows could be written as a table at all."""
    draw = random.Random(f"table {seed}")
    images = write_images(draw, folder)
    layout = draw.randrange(5)
    rows = [row(draw, number, images, layout) for number in range(draw.randrange(1, 7))]
    stored = draw.choice(["as they are", "struct", "bytes"])
    for made in rows:
        if isinstance(made.get("image"), str) and stored != "as they are":
            held = image_bytes(draw)
            made["image"] = {"bytes": held, "path": None} if stored == "struct" else held
    path = folder / "rows.parquet"
    try:
        pa.parquet.write_table(
            pa.concat_tables([pa.Table.from_pylist([made]) for made in rows],
                             promote_options="permissive"), path
        )
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return False
    if draw.random() < 0.15:
        path.write_bytes(damaged(draw, path.read_bytes()))
        outcome(lambda: check_table(StreamedTable(str(path)), Thoroughness(True, collate)))
        outcome(lambda: read(opened := TableDataset(str(path)), range(len(opened)), collate))
        return True
    dataset, refusal = outcome(lambda: TableDataset(str(path)))
    table, closed = outcome(lambda: StreamedTable(str(path)))
    if closed:
        assert refusal
        return True
    found = check_table(table, Thoroughness(True, collate))
    if refusal:
        assert not found.samples and found.problems[0].why in refusal
        return True
    agree(found, dataset, collate)
    streamed = [outcome(lambda: table.load(one)) for one in table.rows()]
    mapped = [outcome(lambda: dataset[n]) for n in range(len(dataset))]
    for item, _ in mapped:
        if item is not None:
            same = [other for other, _ in streamed if other is not None and
                    [i.tobytes() for i in other.images] == [i.tobytes() for i in item.images]]
            assert same
    assert sum(item is None for item, _ in streamed) == sum(
        item is None for item, _ in mapped) + len(dataset.unreadable)
    return True


def run(attempt: Callable[..., Any], seeds: range, folder: Path) -> int:
    """Try all ``seeds``, and print those that fail; how many made a case."""
    collate, cases = collator(), 0
    for seed in seeds:
        try:
            cases += attempt(seed, folder / str(seed), collate) is not False
        except BaseException:
            print(f"{attempt.__name__}, seed {seed}, of {seeds}", file=sys.stderr)
            raise
    print(f"{attempt.__name__}: {cases} cases, seeds {seeds.start} to {seeds.stop - 1}")
    return cases


@pytest.mark.filterwarnings("ignore")
def test_files_of_a_few_hundred_seeds(tmp_path: Path):
    assert run(try_file, range(250), tmp_path) == 250


@pytest.mark.filterwarnings("ignore")
def test_tables_of_a_few_seeds(tmp_path: Path):
    assert run(try_table, range(24), tmp_path) > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_files_of_many_seeds(tmp_path: Path):
    assert run(try_file, range(1000, 4000), tmp_path) == 3000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tables_of_many_seeds(tmp_path: Path):
    assert run(try_table, range(1000, 1800), tmp_path) > 200
