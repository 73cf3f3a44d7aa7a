"""Where a visual token lies in its image, read off the decoder's input: pure functions.

All work on whole rows: ``image`` (B, T) marks the visual columns, ``index`` (B, T) long numbers
the image of each, -1 elsewhere. A place is (row, column) in [-1, 1]; NaN where there is none.
Nothing is read from the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Places:
    """``index`` (B, T) long, ``grid`` (B, T, 2)."""

    index: Tensor
    grid: Tensor


def image_runs(image: Tensor) -> Tensor:
    """Number the runs of consecutive image columns: (B, T) bool → (B, T) long, -1 elsewhere."""
    starts = image.clone()
    starts[:, 1:] &= ~image[:, :-1]
    return torch.where(image, starts.cumsum(1) - 1, -1)


def rank(index: Tensor, counted: Tensor) -> Tensor:
    """How many ``counted`` (B, T) columns of the same image lie before each column, (B, T)."""
    before = counted.long().cumsum(1) - counted.long()
    return before - _of_image(before, index, "amin")


def total(index: Tensor, counted: Tensor) -> Tensor:
    """How many ``counted`` (B, T) columns the image of each column has, (B, T)."""
    return _of_image(counted.long(), index, "sum")


def centres(row: Tensor, column: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cell centres of a grid of ``rows`` x ``columns``: integers (B, T) → (B, T, 2)."""
    return torch.stack([(row + 0.5) / rows, (column + 0.5) / columns], dim=-1) * 2 - 1


def unplaced(image: Tensor) -> Places:
    """Images whose tokens have no place: each looked at all of it, or its width is unknown."""
    nowhere = torch.full((*image.shape, 2), torch.nan, device=image.device)
    return Places(image_runs(image), nowhere)


def tiled(image: Tensor, side: int) -> Places:
    """Images of one or more square tiles of ``side`` x ``side``, each tile with its own places."""
    index = image_runs(image)
    number = rank(index, image) % (side * side)
    size = torch.full_like(number, side)
    return Places(index, centres(number // side, number % side, size, size))


def frames(image: Tensor, side: int) -> Places:
    """Video-LLaVA: an image of ``side`` x ``side``, or frames of these with [CLS] before each,
    which has no place."""
    index = image_runs(image)
    number, size = rank(index, image), total(index, image)
    in_frame = torch.where(size == side * side, number, number % (side * side + 1) - 1)
    across = torch.full_like(number, side)
    grid = centres(in_frame // side, in_frame % side, across, across)
    return Places(index, grid.masked_fill(in_frame[..., None] < 0, torch.nan))


def from_positions(image: Tensor, positions: Tensor) -> Places:
    """Rows and columns from M-RoPE ``positions`` (3 or 4, B, T): the last two axes hold them."""
    index = image_runs(image)
    row, column = (axis.expand_as(index) for axis in positions[-2:])
    row = row - _of_image(row, index, "amin")
    column = column - _of_image(column, index, "amin")
    rows, columns = (_of_image(axis, index, "amax") + 1 for axis in (row, column))
    return Places(index, centres(row, column, rows, columns))


def raster_numbers(positions: Tensor) -> Tensor:
    """Number the rasters of a row, each of which begins again at its first place: (B, T) long.

    From M-RoPE ``positions`` (3 or 4, B, T). Its axis of time does not tell: frames that follow
    on each other faster than it counts share a number there.
    """
    row, column = positions[-2:]
    below, same = row[:, 1:] > row[:, :-1], row[:, 1:] == row[:, :-1]
    goes_on = below | (same & (column[:, 1:] > column[:, :-1]))
    return functional.pad((~goes_on).long().cumsum(1), (1, 0))


def any_resolution(image: Tensor, newline: Tensor, side: int, frame_side: int) -> Places:
    """LLaVA-NeXT's packing: a base image of ``side`` x ``side``, then rows that end in a newline.

    ``newline`` (B, T) marks the newline columns, which have no place. A video is frames of
    ``frame_side`` x ``frame_side`` and one newline, or none; its length tells it from an image
    without tiles, which has exactly ``side * side`` tokens before its newline.
    """
    index = image_runs(image)
    number = rank(index, image)
    size, newlines = total(index, image), total(index, newline & image)
    base = side * side
    whole = torch.full_like(number, side)
    of_base = centres(number // side, number % side, whole, whole)

    rest, rows = number - base, newlines.clamp(min=1)
    width = torch.div(size - base, rows, rounding_mode="floor").clamp(min=2)  # newline included
    of_tiles = centres(rest // width, rest % width, rows, width - 1)

    frame = number % (frame_side * frame_side)
    small = torch.full_like(number, frame_side)
    of_frames = centres(frame // frame_side, frame % frame_side, small, small)

    is_video = _is_video(size, newlines, base)
    grid = torch.where((number < base)[..., None], of_base, of_tiles)
    grid = torch.where(is_video[..., None], of_frames, grid)
    return Places(index, grid.masked_fill(newline[..., None], torch.nan))


def frames_of_any_resolution(
    image: Tensor, newline: Tensor, side: int, frame_side: int
) -> Tensor:
    """The frame of each column of the videos of :func:`any_resolution`, 0 in images: (B, T) long.

    A newline behind a video belongs to its last frame.
    """
    index = image_runs(image)
    size, newlines = total(index, image), total(index, newline & image)
    of_frame = frame_side * frame_side
    frame = torch.div(rank(index, image), of_frame, rounding_mode="floor")
    last = (torch.div(size, of_frame, rounding_mode="floor") - 1).clamp(min=0)
    return torch.where(_is_video(size, newlines, side * side), torch.minimum(frame, last), 0)


def _is_video(size: Tensor, newlines: Tensor, base: int) -> Tensor:
    """Whether ``size`` tokens, of which ``newlines`` are newlines, are no image of ``base``."""
    return (newlines < 2) & (size != base + 1)


def broken_rows(image: Tensor, embeds: Tensor) -> Places:
    """Pixtral's layout: a break token after each row of an image, another one after the image.

    Rows separated by one column belong together if that column is the token after the sample's
    first row; tokens are told apart by their embeddings ``embeds`` (B, T, D).
    """
    row_index = image_runs(image)
    ends = torch.zeros_like(image)
    ends[:, 1:] = image[:, :-1] & ~image[:, 1:]
    first = ends.float().argmax(1)[:, None, None].expand(-1, 1, embeds.shape[-1])
    breaks = ends & (embeds == embeds.gather(1, first)).all(-1)
    breaks[:, :-1] &= image[:, 1:]
    joined = image | breaks
    index = torch.where(image, image_runs(joined), -1)
    column = rank(row_index, image)
    row = rank(index, breaks)
    columns, rows = _of_image(column, index, "amax") + 1, _of_image(row, index, "amax") + 1
    return Places(index, centres(row, column, rows, columns))


def _of_image(values: Tensor, index: Tensor, reduce: str) -> Tensor:
    """``values`` (B, T) reduced over the columns of the same image, at each column."""
    where = index + 1  # all other columns share slot 0
    slots = values.new_zeros(len(index), index.shape[1] + 1)
    return slots.scatter_reduce(1, where, values, reduce, include_self=False).gather(1, where)
