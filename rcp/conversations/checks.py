"""A whole data set looked through before a night is spent on it, as training would read it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rcp.conversations.collator import ConversationCollator
from rcp.conversations.leave_out import Entry
from rcp.conversations.reader import ConversationDataset, Names
from rcp.conversations.rows import own_id
from rcp.conversations.sample import LoadedSample, Sample, TooLong, Unfit, Unreadable
from rcp.conversations.stream import StreamedTable
from rcp.quoting import plain


@dataclass
class Findings:
    """``samples`` are the sound ones, ``problems`` say what is wrong with each of the others.

    ``too_long`` are sound, but for their length; ``repeated`` ids that several samples have.
    """

    samples: list[Sample] = field(default_factory=list)
    problems: list[Entry] = field(default_factory=list)
    too_long: list[Entry] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Thoroughness:
    """``decode``: open every image; ``collate``: also have the processor make inputs of it."""

    decode: bool
    collate: ConversationCollator | None = None


def check_file(dataset: ConversationDataset, thoroughness: Thoroughness) -> Findings:
    """Look at every row of a conversation file."""
    found = Findings(repeated=dataset.repeated)
    for fault in dataset.unreadable:
        row = fault.row or 0
        found.problems.append(Entry(row, 0, row, dataset.own_ids[row], str(fault)))
    missing = {fault.id: fault for fault in dataset.missing()}
    sound: set[Path] = set()
    for index, (number, sample) in enumerate(zip(dataset.numbers, dataset.samples)):
        place = (number, 0, number, dataset.own_ids[number])
        images = {image for image in sample.images if isinstance(image, Path)}
        known = len(images) == len(sample.images) and images <= sound
        try:
            if sample.id in missing:
                raise missing[sample.id]
            if thoroughness.decode and not (known and thoroughness.collate is None):
                _look_at(dataset[index], thoroughness)
                sound |= images
            found.samples.append(sample)
        except Unreadable as fault:
            _note(found, place, fault)
    found.problems.sort(key=lambda entry: entry.row)
    return found


def check_table(table: StreamedTable, thoroughness: Thoroughness) -> Findings:
    """One pass through a Hugging Face data set, without anything being kept on disk."""
    found, names = Findings(), Names()
    number = -1
    for row in table.rows():
        number += row.question == 0
        place = (number, row.file, row.number, own_id(row.values))
        try:
            sample = names.unique(table.read(row, number), number)
        except Unreadable as fault:
            if row.question == 0:  # the text of a row is sound as a whole, or none of it is
                _note(found, place, fault)
            continue
        try:
            if thoroughness.decode:
                _look_at(table.source.loaded(sample, number), thoroughness)
            found.samples.append(sample.without_bytes(number))
        except Unreadable as fault:
            _note(found, place, fault)
    found.repeated = list(names.repeated)
    return found


def summary(samples: Sequence[Sample]) -> list[str]:
    """A line for each question type, then one for all."""
    by_type: dict[str, list[Sample]] = {}
    for sample in samples:
        by_type.setdefault(plain(sample.question_type), []).append(sample)
    groups = [*sorted(by_type.items()), ("all", list(samples))]
    width = max(len(name) for name, _ in groups)
    return [f"{name:<{width}}  {_line(members)}" for name, members in groups]


def _look_at(item: LoadedSample, thoroughness: Thoroughness) -> None:
    if thoroughness.collate is not None:
        try:
            thoroughness.collate([item])
        except Unfit as error:
            raise error.faults[0] from None


def _note(found: Findings, place: tuple[int, int, int, str | None], fault: Unreadable) -> None:
    entries = found.too_long if isinstance(fault, TooLong) else found.problems
    entries.append(Entry(*place, str(fault)))


def _line(samples: Sequence[Sample]) -> str:
    images = Counter(len(sample.images) for sample in samples)
    answers = Counter(sample.answer for sample in samples)
    top, times = answers.most_common(1)[0] if answers else ("", 0)
    shown = ", ".join(f"{count} with {number}" for number, count in sorted(images.items()))
    share = times / max(1, len(samples))
    return (
        f"{len(samples):>8} samples, images: {shown or 'none'}; {len(answers)} answers, "
        f"most frequent '{plain(top)}' ({share:.1%})"
    )
