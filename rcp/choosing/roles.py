"""Which columns are image, question, answer, and where images have their tokens: on the host."""

from dataclasses import dataclass

import numpy as np

from rcp.choosing.one_copy import Array


@dataclass(frozen=True)
class Roles:
    """``image``, ``question``, ``answer``, ``valid``: (B, T) bool."""

    image: Array
    question: Array
    answer: Array
    valid: Array


def roles_of(
    image: Array, valid: Array, labelled: Array | None, prompt_end: Array | None
) -> Roles:
    """Roles of columns, of which ``image`` (B, T) hold images and ``valid`` (B, T) no padding.

    ``labelled`` (B, T) marks answer tokens; ``prompt_end`` (B,) is the column after the last
    prompt token, where labels do not tell. With neither, all is prompt.
    """
    image = image & valid
    length = image.shape[1]
    column = np.arange(length)[None]
    last_valid = np.where(valid, column, -1).max(1, initial=-1)
    if labelled is not None:
        first_label = np.where(labelled & valid, column, length).min(1, initial=length)
        prompt_end = np.minimum(first_label, last_valid + 1)
        answer = np.zeros_like(valid)
        answer[:, :-1] = (labelled & valid)[:, 1:]
    else:
        prompt_end = last_valid + 1 if prompt_end is None else prompt_end
        answer = valid & (column >= prompt_end[:, None] - 1)
    prompt_text = valid & ~image & (column < prompt_end[:, None])
    last_image = np.where(image, column, -1).max(1, initial=-1)
    question = prompt_text & (column > last_image[:, None])
    question = np.where(question.any(1, keepdims=True), question, prompt_text)
    return Roles(image, question, answer, valid)


def listed(mask: Array) -> tuple[Array, Array]:
    """The columns where ``mask`` (B, T) holds, in order, (B, width) long, and which are real.

    Slots past a row's own count hold other columns of that row.
    """
    width = int(mask.sum(1).max(initial=0))
    order = np.argsort(~mask, axis=1, kind="stable")[:, :width]
    return order, np.take_along_axis(mask, order, 1)


def run_of(columns: Array, real: Array) -> range | None:
    """The ``columns`` (B, N) as a range, if all samples have the same N and none is between."""
    if not columns.size or not real.all():
        return None
    run = range(int(columns[0, 0]), int(columns[0, 0]) + columns.shape[1])
    return run if (columns == np.array(run)).all() else None


def image_numbers(image: Array) -> Array:
    """Number the runs of consecutive image columns: (B, T) bool → (B, T) long, -1 elsewhere."""
    starts = image.copy()
    starts[:, 1:] &= ~image[:, :-1]
    return np.where(image, starts.cumsum(1) - 1, -1)


def square_places(number: Array, real: Array) -> Array:
    """Places for images whose tokens form a full square in raster order: (B, N, 2) fp32.

    ``number`` (B, N) is the image of each slot, ``real`` (B, N) says which slots exist. A place
    is (row, column) in [-1, 1]; an image that is no square is laid out as one row.
    """
    slot = np.broadcast_to(np.arange(number.shape[1]), number.shape)
    starts = np.ones_like(real)
    starts[:, 1:] = number[:, 1:] != number[:, :-1]
    rank = slot - np.maximum.accumulate(np.where(starts, slot, 0), axis=1)
    size = _sizes(number, real)
    side = np.rint(np.sqrt(size)).astype(np.int64)
    width = np.where(side * side == size, side, size)
    height = size // width
    row, column = (part.astype(np.float32) for part in (rank // width, rank % width))
    half = np.float32(0.5)
    centre = [(row + half) / height.astype(np.float32), (column + half) / width.astype(np.float32)]
    return np.stack(centre, axis=-1) * np.float32(2) - np.float32(1)


def _sizes(number: Array, real: Array) -> Array:
    """How many slots the image of each slot has; at slots that are not real, how many of these."""
    size = np.empty_like(number)
    for row, numbers in enumerate(np.where(real, number, number.shape[1])):
        size[row] = np.bincount(numbers)[numbers] if numbers.size else 0
    return size
