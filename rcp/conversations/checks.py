"""A whole data set looked through before a night is spent on it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from rcp.conversations.formats import read_rows
from rcp.conversations.images import as_rgb
from rcp.conversations.reader import Sample, conversation_file, read_row
from rcp.errors import UserError


@dataclass
class Findings:
    """``samples`` are the sound ones, ``problems`` says what is wrong with each of the others."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(path: Path, image_folder: Path | None, decode: bool) -> Findings:
    """Look at every row, every image file's existence and, with ``decode``, its pixels."""
    path = conversation_file(path)
    folder = path.parent if image_folder is None else image_folder
    found = Findings()
    for number, row in enumerate(read_rows(path)):
        try:
            found.samples.append(read_row(row, number, path, folder))
        except UserError as error:
            found.problems.append(str(error))
    bad = dict(_bad_images(found.samples, decode))
    sound = [sample for sample in found.samples if not bad.keys() & set(sample.images)]
    for sample in found.samples:
        found.problems += [
            f"Sample '{sample.id}': image '{image}' {bad[image]}."
            for image in sample.images
            if image in bad
        ]
    found.samples = sound
    found.problems += repeated(sound)
    return found


def repeated(samples: Sequence[Sample]) -> list[str]:
    """A line for each id that several samples have."""
    twice = [name for name, n in Counter(sample.id for sample in samples).items() if n > 1]
    return [f"The id '{name}' occurs more than once." for name in twice]


def summary(samples: Sequence[Sample]) -> list[str]:
    """A line for each question type, then one for all."""
    by_type: dict[str, list[Sample]] = {}
    for sample in samples:
        by_type.setdefault(sample.question_type, []).append(sample)
    groups = [*sorted(by_type.items()), ("all", list(samples))]
    width = max(len(name) for name, _ in groups)
    return [f"{name:<{width}}  {_line(members)}" for name, members in groups]


def _line(samples: Sequence[Sample]) -> str:
    images = Counter(len(sample.images) for sample in samples)
    answers = Counter(sample.answer for sample in samples)
    top, times = answers.most_common(1)[0] if answers else ("", 0)
    shown = ", ".join(f"{count} with {number}" for number, count in sorted(images.items()))
    share = times / max(1, len(samples))
    return (
        f"{len(samples):>8} samples, images: {shown or 'none'}; {len(answers)} answers, "
        f"most frequent '{top}' ({share:.1%})"
    )


def _bad_images(samples: Sequence[Sample], decode: bool) -> Iterator[tuple[Path, str]]:
    for image in dict.fromkeys(image for sample in samples for image in sample.images):
        if not os.path.isfile(image):
            yield image, "does not exist"
        elif decode:
            try:
                with Image.open(image) as opened:
                    as_rgb(opened)
            except Exception as error:  # Pillow raises a dozen kinds for a damaged file
                yield image, f"cannot be decoded ({error})"
