"""EViT's step in a block of a vision tower: what [CLS] looks at stays, the rest becomes one row."""

import math

import torch
from torch import Tensor

from rcp.choosing.positions import columns_of, take_rows
from rcp.choosing.selection import top_k


def kept_patches(patches: int, keep: float) -> int:
    """How many of ``patches`` a step leaves: their share ``keep``, rounded up. EViT [code]

    A product that is a whole number but for its last digits is that number. [ours]
    """
    return math.ceil(round(keep * patches, 9))


def patches_by_step(patches: int, keep: float, steps: int) -> list[int]:
    """How many of ``patches`` each of ``steps`` steps leaves."""
    found: list[int] = []
    for _ in range(steps):
        patches = kept_patches(patches, keep)
        found.append(patches)
    return found


def fused(rows: Tensor, attention: Tensor, patches: int, left: int) -> tuple[Tensor, Tensor]:
    """Keep the ``left`` patches of highest ``attention`` and fuse all else: EViT, arXiv 2202.07800.

    ``rows`` (I, R, C): [CLS], ``patches`` patches and, behind an earlier step, the row that it
    fused; ``attention`` (I, R - 1) fp32 that of [CLS] to all but itself. Returns the rows left,
    (I, left + 2, C), patches in their order and the fused row last, and which patches they are,
    (I, left) long. The fused row is the sum of what goes, each times its attention, not
    renormalised [code]; that of an earlier step always goes into it, where EViT's code lets it
    compete with patches: so each image keeps as many. [ours]
    """
    of_patches = attention[:, :patches]
    wanted = torch.full((len(rows),), left, device=rows.device)
    alive = torch.ones_like(of_patches, dtype=torch.bool)
    index, _ = columns_of(top_k(of_patches, alive, wanted, left), left)
    others = rows[:, 1:]
    extra = (attention.scatter(1, index, 0.0)[:, None] @ others.float()).to(rows.dtype)
    return torch.cat([rows[:, :1], take_rows(others, index), extra], dim=1), index
