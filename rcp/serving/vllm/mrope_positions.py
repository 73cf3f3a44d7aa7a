"""Positions of a prompt whose images have lost tokens, where they are places (M-RoPE).

Pure functions of tensors. All tokens of an image share the first axis, and their rows and columns
are counted from it on the two others. Before an image is encoded it therefore is put where it
begins, and text behind it where it will stand in any case; a correction reads the first axis and
writes the others, and can be made twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HALF = 256
"""Places travel in two columns each: bf16 holds whole numbers up to this one alone."""


class Placed(NamedTuple):
    """Its ``kept`` rows stand from column ``offset`` on; it lay on ``rows`` x ``columns``."""

    offset: int
    kept: int
    rows: int
    columns: int

    @property
    def span(self) -> int:
        """By how much positions rise over it."""
        return max(self.rows, self.columns)


def around_grid(before: int, grid: tuple[int, int], after: int) -> Tensor:
    """(3, T) long: ``before`` tokens of text, an image on ``grid``, ``after`` tokens of text."""
    rows, columns = grid
    text = torch.arange(before).expand(3, -1)
    behind = torch.arange(after).expand(3, -1) + before + max(rows, columns)
    return torch.cat([text, places(torch.arange(rows * columns), columns).T + before, behind], 1)


def places(ranks: Tensor, columns: int) -> Tensor:
    """What tokens of these ``ranks`` (k,) long add to where their image begins: (k, 3) long."""
    return torch.stack([torch.zeros_like(ranks), ranks // columns, ranks % columns], dim=-1)


def before_choice(length: int, images: Sequence[Placed]) -> tuple[Tensor, int]:
    """Positions (3, ``length``) long of a prompt, right for its text, and how far ahead they end.

    ``images`` in the order of their columns.
    """
    positions = torch.arange(length).repeat(3, 1)
    for image in images:
        end = image.offset + image.kept
        begin = positions[0, image.offset].item()
        positions[:, image.offset : end] = begin
        positions[:, end:] = torch.arange(length - end) + begin + image.span
    return positions, ahead(positions)


def ahead(positions: Tensor) -> int:
    """How far ``positions`` (3, T) end ahead of their number: text closes every image."""
    return int(positions[0, -1]) + 1 - positions.shape[1] if positions.shape[1] else 0


def after_choice(positions: Tensor, columns: Tensor, found: Tensor) -> Tensor:
    """``positions`` (3, T) with the images' ``columns`` (n,) at the places ``found`` (n, 2)."""
    corrected = positions.clone()
    corrected[1:, columns] = positions[0, columns] + found.T.to(positions)
    return corrected


def with_places(rows: Tensor, found: Tensor) -> Tensor:
    """``rows`` (k, D) beside their places ``found`` (k, 2) long: (k, D + 4)."""
    halves = torch.stack([found // HALF, found % HALF], dim=-1).flatten(1)
    return torch.cat([rows, halves.to(rows)], dim=-1)


def apart(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`with_places` joined: rows (k, D) and places (k, 2) long."""
    halves = rows[:, -4:].round().long().unflatten(1, (2, 2))
    return rows[:, :-4], halves[..., 0] * HALF + halves[..., 1]
