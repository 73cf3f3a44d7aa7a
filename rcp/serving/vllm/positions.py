"""Positions of a prompt whose images have lost tokens: pure functions of tensors.

The runner asks for positions before an image is encoded, when nobody knows yet who survives, and
lets them be corrected afterwards, chunk by chunk and, when a request was interrupted, again. It
holds three axes of them, of which a decoder without M-RoPE needs one, the first. The second says
where the counting of each token's rank begins, and the third by how much positions behind the
prompt are ahead of its length: a correction reads only these two, and can be made twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HALF = 256
"""Ranks travel in two columns beside the rows: bf16 holds whole numbers up to this one alone."""


class Image(NamedTuple):
    """Its ``kept`` rows stand from column ``offset`` on; it had ``full``."""

    offset: int
    kept: int
    full: int


def before_choice(length: int, images: Sequence[Image]) -> tuple[Tensor, int]:
    """Positions (3, ``length``) long of a prompt, right for its text, and how far ahead they end.

    ``images`` in the order of their columns.
    """
    positions = torch.arange(length).repeat(3, 1)
    ahead = 0
    for image in images:
        end = image.offset + image.kept
        positions[1, image.offset : end] = image.offset + ahead
        ahead += image.full - image.kept
        positions[:2, end:] += image.full - image.kept
    positions[2] = ahead
    return positions, ahead


def after_choice(positions: Tensor, columns: Tensor, ranks: Tensor) -> tuple[Tensor, int]:
    """``positions`` (3, T) with the images' ``columns`` (n,) long where their ``ranks`` (n,) say,
    and, again, how far ahead they end."""
    corrected = positions.clone()
    corrected[0, columns] = positions[1, columns] + ranks.to(positions)
    return corrected, int(positions[2, 0]) if positions.shape[1] else 0


def with_ranks(rows: Tensor, ranks: Tensor) -> Tensor:
    """``rows`` (k, D) beside their ``ranks`` (k,) long: (k, D + 2)."""
    halves = torch.stack([ranks // HALF, ranks % HALF], dim=-1)
    return torch.cat([rows, halves.to(rows)], dim=-1)


def apart(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`with_ranks` joined: rows (k, D) and ranks (k,) long."""
    halves = rows[:, -2:].round().long()
    return rows[:, :-2], halves[:, 0] * HALF + halves[:, 1]
