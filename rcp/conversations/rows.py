"""One row of whatever source as a sample: the one place where its text is judged."""

import base64
import binascii
import os
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rcp.conversations.asked import AS_IT_STANDS, Reading
from rcp.conversations.layouts import (
    Refused,
    Turn,
    questions_in,
    refuse_unread_images,
    turns_and_images,
)
from rcp.conversations.sample import (
    NO_TYPE,
    PLACEHOLDER,
    ImageSource,
    LoadedSample,
    Sample,
    Unreadable,
)
from rcp.quoting import plain, quoted

DATA_URI = "data:"


@dataclass(frozen=True)
class Broken:
    """What stands in the place of a row that could not even be parsed."""

    why: str


@dataclass(frozen=True)
class Source:
    """Where rows come from: ``path`` is what messages call it, ``folder`` where image paths start.

    ``reading`` is how they are to be understood. What is asked is the first question of a
    conversation, or with ``all_turns`` each one of them.
    """

    path: Path
    folder: Path
    reading: Reading = AS_IT_STANDS
    all_turns: bool = False

    def questions_in(self, row: Any) -> int:
        """How many samples ``row`` gives if it is sound."""
        return questions_in(row) if self.all_turns and isinstance(row, dict) else 1

    def samples(self, row: Any, number: int | None, name: str | None = None) -> list[Sample]:
        """``row`` as samples, checked but for their images; ``number`` is its place in the source.

        A row without an id is called ``name``, by default its number; with a later question of it
        goes the number of that. Raises ``Unreadable`` if any of them cannot be.
        """
        called = str(number) if name is None else name
        try:
            asked = self.reading.asked(row)
        except Refused as error:
            raise self._unreadable(own_id(row) or called, number, error) from None
        found = []
        for one in asked:
            own = own_id(one.row)
            own = called if own is None else own
            try:
                turns = _samples(one.row, own, self.folder, self.all_turns)
            except Refused as error:
                raise self._unreadable(own, number, error) from None
            found += [replace(sample, facts=one.facts) for sample in turns]
        return found

    def loaded(self, sample: Sample, number: int | None) -> LoadedSample:
        """``sample`` with its images opened; raises ``Unreadable`` for one that cannot be."""
        # numpy and Pillow's plug-ins are not needed for the text alone
        from rcp.conversations.images import opened

        for image in sample.images:
            # a pipe or a device would be waited for without end
            if isinstance(image, Path) and not is_file(image):
                raise self.missing(sample, image, number)
        images = []
        for image in sample.images:
            try:
                images.append(opened(image))
            except Exception as error:  # Pillow raises a dozen kinds for a damaged file
                which = f"The image {quoted(image)}" if isinstance(image, Path) else "An image"
                raise Unreadable(
                    f"{which} of sample {quoted(sample.id)} cannot be read "
                    f"({plain(error) or type(error).__name__}). Replace the image or remove the "
                    "sample.",
                    sample.id,
                    number,
                ) from error
        return LoadedSample(sample, tuple(images))

    def _unreadable(self, called: str, number: int | None, why: Refused) -> Unreadable:
        return Unreadable(f"Sample {quoted(called)} of {quoted(self.path)} {why}", called, number)

    def missing(self, sample: Sample, image: Path, number: int | None) -> Unreadable:
        """What is wrong with a sample whose image file is not there."""
        return Unreadable(
            f"Sample {quoted(sample.id)} of {quoted(self.path)} names the image {quoted(image)}, "
            "which does not exist. Paths are relative to the image folder, by default the folder "
            "of the data: put the file there or give the right image folder.",
            sample.id,
            number,
        )


def is_file(path: Path) -> bool:
    """Whether there is a file ``path``; False for whatever can be no name of one."""
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def own_id(row: Any) -> str | None:
    """What ``row`` calls itself."""
    if not isinstance(row, dict):
        return None
    found = row.get("id") if row.get("id") is not None else row.get("question_id")
    return _encodable(str(found)) if isinstance(found, (str, int, float)) else None


def _samples(row: Any, name: str, folder: Path, all_turns: bool) -> list[Sample]:
    if isinstance(row, Broken):
        raise Refused(f"cannot be parsed ({row.why}). Correct or remove that line.")
    if not isinstance(row, dict):
        raise Refused(
            f"has no conversation: it is {quoted(row)}, but must be an object with its "
            "conversation. Remove the sample or complete it."
        )
    turns, images = turns_and_images(row, all_turns)
    pairs = [_first_question(turns)]
    pairs += [_later_question(turns[at : at + 2], at) for at in range(2, len(turns) - 1, 2)]
    sources = tuple(image_source(image, folder) for image in images)
    if not sources:
        refuse_unread_images(row)
    shown = _placeholders(pairs, len(sources), all_turns)
    kind = row.get("question_type")
    return [
        Sample(
            id=f"{name} (question {number + 1})" if number else name,
            images=sources[:seen],
            question=question,
            answer=answer,
            question_type=_encodable(str(kind)) if isinstance(kind, (str, int)) and kind
            else NO_TYPE,
            earlier=tuple(pairs[:number]),
        )
        for number, ((question, answer), seen) in enumerate(zip(pairs, shown))
    ]


def _encodable(name: str) -> str:
    """``name`` with half characters, which JSON can hold and no file can, written out."""
    return name.encode(errors="backslashreplace").decode()


def _first_question(turns: list[Turn]) -> tuple[str, str]:
    """What the first two turns say, which must be a human's and a model's."""
    if turns[0].speaker == "system":
        raise Refused(
            "begins with a system turn, which is not read: a plug-in is trained on a question and "
            "its answer. Put what it says into the first human turn, or remove it."
        )
    if turns[0].speaker == "gpt":
        raise Refused(
            "begins with a turn of the assistant (does not open with a 'human' turn), so that "
            "there is no question. Remove that turn, or the sample."
        )
    if len(turns) < 2:
        raise Refused(
            "has no conversation: a human turn must be followed by a gpt turn, but there is one "
            f"turn alone, {quoted(turns[0].raw)}. Remove the sample or complete it."
        )
    must = "does not open with a 'human' turn followed by a 'gpt' turn, each with a non-empty text"
    return _said(turns[0], "human", must), _said(turns[1], "gpt", must).strip()


def _later_question(turns: list[Turn], at: int) -> tuple[str, str]:
    """What the two ``turns`` say that follow ``at`` earlier ones, of which all count."""
    must = (
        f"does not go on, after {at} turns, with a 'human' turn followed by a 'gpt' turn, each "
        f"with a non-empty text"
    )
    return _said(turns[0], "human", must), _said(turns[1], "gpt", must).strip()


def _said(turn: Turn, speaker: str, must: str) -> str:
    """The text of ``turn``, which must be the speaker's and not empty."""
    if turn.speaker != speaker or not isinstance(turn.text, str) or not turn.text.strip():
        raise Refused(
            f"{must}: the '{speaker}' turn reads {quoted(turn.raw)}. Correct or remove the sample."
        )
    if _encodable(turn.text) != turn.text:
        raise Refused(
            f"has half a character (a lone surrogate) in its '{speaker}' turn, which no tokenizer "
            f"takes: {quoted(turn.text)}. Correct or remove the sample."
        )
    return turn.text


def _placeholders(pairs: list[tuple[str, str]], images: int, all_turns: bool) -> list[int]:
    """How many of the ``images`` each question is asked of, itself and the earlier ones together.

    Every image must have its placeholder in one of them.
    """
    if any(PLACEHOLDER in answer for _, answer in pairs):
        raise Refused(
            f"has a '{PLACEHOLDER}' placeholder in its answer (the 'gpt' turn), where no image can "
            "be. Correct the answer or remove the sample."
        )
    shown = list(accumulate(question.count(PLACEHOLDER) for question, _ in pairs))
    if shown[-1] != images:
        where, rest = (
            ("its questions", "") if all_turns
            else ("its question (the first human turn)", ", and later turns are not read")
        )
        raise Refused(
            f"has {shown[-1]} '{PLACEHOLDER}' placeholder(s) in {where}, but {images} image(s). "
            f"Each image needs exactly one there{rest}; correct the question or the image list."
        )
    return shown


def image_source(image: Any, folder: Path) -> ImageSource:
    """Where an image is that is stored as a path, bytes, or both as ``{"bytes", "path"}``.

    Raises ``Refused`` for anything else, and for an address.
    """
    found = image
    if isinstance(image, dict):
        path = image.get("path") if image.get("path") is not None else image.get("url")
        found = image["bytes"] if image.get("bytes") is not None else path
        if isinstance(found, str) and image.get("bytes") is not None:
            found = _from_base64(found)
    if isinstance(found, str) and found.startswith(DATA_URI):
        found = _from_base64(found.partition(",")[2])
    if isinstance(found, bytes) and found:
        return found
    if not isinstance(found, str) or not found:
        raise Refused(
            f"has the image {quoted(image)}, but an image must be the path of a file, its bytes, "
            "or an object with 'bytes' or 'path', or a list of such. Correct or remove the sample."
        )
    if "://" in found:
        raise Refused(
            f"names the image {quoted(found)}, which is an address, and nothing is fetched from "
            "there. Download the image and give its path."
        )
    return folder / found


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(
            f"has an image in bytes that are not base64 ({plain(error)}): {quoted(text)}. Correct "
            "or remove the sample."
        ) from None
