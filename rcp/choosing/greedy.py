"""One greedy selector; a method plugs in what a token is worth after each pick."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

NOBODY = -torch.inf
"""The worth of a token that cannot be picked."""

BLOCK = 512
"""Rows of a product of vectors with themselves that are computed at once."""

After = Callable[[Tensor], Tensor]
"""Newest pick (B,) long → worth of every token now (B, N), ``NOBODY`` at dead and at picked ones:
the worth of a token is usually updated in place, and so is this mark, once a token."""


def greedy(first: Tensor, after: After, alive: Tensor, counts: Tensor, most: int) -> Tensor:
    """Pick the token of the largest worth, ``counts`` (B,) times a row: (B, N) bool.

    ``first`` (B, N) is what tokens are worth before the first pick; ``after`` says it later.
    ``most`` is the largest count, a host integer. Equal worths go to the earlier token. Costs
    O(N) a pick beside what ``after`` costs.
    """
    if not most or not alive.shape[1]:
        return torch.zeros_like(alive)
    worth = first.masked_fill(~alive, NOBODY)
    picks = [worth.argmax(1)]
    for _ in range(most - 1):
        picks.append(after(picks[-1]).argmax(1))
    picked = torch.stack(picks, dim=1)
    wanted = torch.arange(most, device=counts.device) < counts[:, None]
    # counted, as a row that has run out of tokens picks one again; CUDA reduces no bool
    times = torch.zeros_like(alive, dtype=torch.long).scatter_add_(1, picked, wanted.long())
    return (times > 0) & alive


def cosines(vectors: Tensor) -> Tensor:
    """Pairwise cosine similarities of ``vectors`` (B, N, D): (B, N, N) fp64; 0 with a zero vector.

    In fp64 and rounded to 1e-9, so that a choice among near-equal tokens is the same whatever the
    shape of the product it came from: with other tokens dead, in another batch, on another
    device. [ours]
    """
    return products(normalised(vectors)).round_(decimals=9)


@torch.no_grad()
def products(vectors: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``vectors @ vectors.mT`` (B, N, D) → (B, N, N), each pair multiplied once; no gradient.

    Half the work of the plain product where N is large, as what lies below the diagonal is copied
    from above it.
    """
    batch, tokens, _ = vectors.shape
    out = vectors.new_empty(batch, tokens, tokens) if out is None else out
    for start in range(0, tokens, BLOCK):
        rows, rest = slice(start, start + BLOCK), slice(start + BLOCK, tokens)
        torch.matmul(vectors[:, rows], vectors[:, start:].mT, out=out[:, rows, start:])
        if start + BLOCK < tokens:
            out[:, rest, rows] = out[:, rows, rest].mT
    return out


@torch.no_grad()
def normalised(vectors: Tensor) -> Tensor:
    """``vectors`` (..., D) over their lengths, fp64; a zero vector stays zero."""
    unit = vectors.to(torch.float64, copy=True)  # in place from here on
    return functional.normalize(unit, dim=-1, out=unit)


def rows_at(matrix: Tensor) -> After:
    """A fast reader of one row of each (N, N) of ``matrix`` (B, N, N): (B,) long → (B, N)."""
    batch, tokens, _ = matrix.shape
    flat = matrix.reshape(batch * tokens, -1)
    if batch == 1:  # a pick costs few operations, so each one counts
        return lambda index: flat.index_select(0, index)
    offsets = torch.arange(batch, device=matrix.device) * tokens
    return lambda index: flat.index_select(0, index + offsets)


def max_min(distance: Tensor, alive: Tensor) -> tuple[Tensor, After]:
    """Worth of a token: its distance to the nearest picked one (farthest-point sampling).

    ``distance`` (B, N, N) is symmetric and taken over: its diagonal and dead columns are
    overwritten. Before the first pick a token is worth the distance to its nearest neighbour.
    """
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    distance.masked_fill_(~alive[:, None, :], torch.inf)
    first = distance.amin(2)
    return first, lowest(distance, alive)


def lowest(worth: Tensor, alive: Tensor) -> After:
    """Worth of token j: the lowest of ``worth[:, i, j]`` (B, N, N) over the picked i.

    ``worth`` is taken over: its diagonal is overwritten.
    """
    row = _rows_after_picks(worth)
    found = torch.full_like(alive, torch.inf, dtype=worth.dtype).masked_fill_(~alive, NOBODY)

    def after(pick: Tensor) -> Tensor:
        return torch.minimum(found, row(pick), out=found)

    return after


def added(worth: Tensor, start: Tensor, alive: Tensor) -> After:
    """Worth of token j: ``start`` (B, N) plus all ``worth[:, i, j]`` (B, N, N) of the picked i.

    ``worth`` is taken over: its diagonal is overwritten.
    """
    row = _rows_after_picks(worth)
    total = start.to(worth.dtype).masked_fill(~alive, NOBODY)

    def after(pick: Tensor) -> Tensor:
        return total.add_(row(pick))

    return after


def _rows_after_picks(worth: Tensor) -> After:
    """:func:`rows_at` where whoever is picked is worth nothing from then on."""
    worth.diagonal(dim1=1, dim2=2).fill_(NOBODY)
    return rows_at(worth)
