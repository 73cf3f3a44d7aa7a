"""One greedy selector; a method plugs in what a token is worth after each pick."""

from collections.abc import Callable

import torch
from torch import Tensor

NOBODY = -torch.inf
"""The worth of a token that cannot be picked."""

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
    unit = normalised(vectors)
    return (unit @ unit.mT).mul_(1e9).round_().div_(1e9)


def normalised(vectors: Tensor) -> Tensor:
    """``vectors`` (..., D) over their lengths, fp64; a zero vector stays zero."""
    vectors = vectors.double()
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)


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

    ``distance`` (B, N, N) is taken over: its diagonal and dead columns are overwritten. Before
    the first pick a token is worth the distance to its nearest neighbour.
    """
    diagonal = distance.diagonal(dim1=1, dim2=2)
    diagonal.fill_(torch.inf)
    distance.masked_fill_(~alive[:, None, :], torch.inf)
    first = distance.amin(2)
    diagonal.fill_(NOBODY)  # whoever is picked is nearest to itself from then on
    distance.masked_fill_(~alive[:, None, :], NOBODY)
    row = rows_at(distance)
    nearest = torch.full_like(first, torch.inf)

    def after(pick: Tensor) -> Tensor:
        return torch.minimum(nearest, row(pick), out=nearest)

    return first, after
