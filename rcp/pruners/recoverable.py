"""Recoverable Compression: what attention passes over is recovered by the text, then merged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rcp.choosing.greedy import cosines, normalised
from rcp.choosing.merging import unmerged, weighted_sum
from rcp.choosing.selection import top_k
from rcp.choosing.view import View
from rcp.pruners.base import Pruner

NEIGHBOURS = 32
"""So many tokens join a centre, which they may share with other centres."""
TEXT_WEIGHT = 50 / 768**0.5
"""What likeness to the text counts beside likeness to the centre, in a neighbour."""
OUTLIER = 1.5
"""A local outlier factor above this is an outlier's."""


class RecoverableCompressionPruner(Pruner):
    """[CLS] outliers, text outliers, centres, one rest token (Recoverable Compression's code).

    How many tokens of each kind stay is told by 1-D local outlier factors: as many as the [CLS]
    attention a has outliers, the best by a; of the others the share that the text's scores s have
    outliers, the best by s; and as centres, of what is left, the best by a, for each kept token
    the share of outliers that is among their a. A centre takes in the sum of a_j x_j of the 32
    tokens left that are most like its key and the text; all that are no centre go on as one token,
    the sum of a_j x_j. (AAAI 2025)

    Ours: exactly k stay. One of two or more is the rest's, in the slot of its best by a, and the
    others are shared out as the outlier counts (:func:`outlier_counts`) are; where nothing is
    dropped, nothing is merged. The model need not have a text tower, so s is the cosine of the
    mean of the question's embeddings, each of length 1, with the projected token, where the code
    asks CLIP's. Attention and keys are means over heads, where the code takes one head of full
    width. The code looks neighbours up by their number among what is left in tables of all
    tokens; here they are the tokens meant.
    """

    name = "recoverable"
    paper = "arXiv 2409.01179"
    needs = frozenset(
        {"vision_cls_attention", "encoder_keys", "projected", "question_embeds"}
    )

    def select(self, view: View, counts: Tensor) -> Tensor:
        return self._split(view, counts).kept

    def merge(self, view: View, keep: Tensor) -> Tensor:
        counts = keep.sum(1)
        split = self._split(view, counts)
        attention = view.given("vision_cls_attention")
        joining = _neighbours(view, split) * attention[:, None]
        alone = unmerged(keep, view.limit(counts))
        carrier = split.carrier.long().argmax(1, keepdim=True)
        # the rest's row is told by its carrier, whom centres take in as well: it comes first
        rest = weighted_sum(alone, carrier, attention * split.left)
        folds = (view.alive & ~keep).any(1) & split.carrier.any(1)
        return torch.where(folds[:, None, None], rest + alone @ joining, alone)

    def _split(self, view: View, counts: Tensor) -> "_Split":
        attention, alive = view.given("vision_cls_attention"), view.alive
        text = text_scores(view)
        by_cls, by_question, around = outlier_counts(attention, text, alive)
        total = (by_cls + by_question + around).clamp(min=1)
        # of one token there is none to spare for the rest
        shared = torch.where(counts > 1, counts - 1, counts)
        by_text, as_centres = (
            torch.div(shared * part, total, rounding_mode="floor") for part in (by_question, around)
        )
        visual = top_k(attention, alive, shared - by_text - as_centres)
        main = visual | top_k(text, alive & ~visual, by_text)
        centres = top_k(attention, alive & ~main, as_centres)
        left = alive & ~main & ~centres
        return _Split(main, centres, top_k(attention, left, counts - shared), left, text)


@dataclass(frozen=True)
class _Split:
    """Tokens (B, N) bool by what becomes of them, the ``carrier`` being one of those ``left``.

    ``text`` (B, N) fp64 is their likeness to the text.
    """

    main: Tensor
    centres: Tensor
    carrier: Tensor
    left: Tensor
    text: Tensor

    @property
    def kept(self) -> Tensor:
        return self.main | self.centres | self.carrier


def text_scores(view: View) -> Tensor:
    """Cosine of each projected token with the mean direction of the question: (B, N) fp64."""
    question = normalised(view.given("question_embeds")) * view.question_valid[..., None]
    direction = normalised(question.sum(1, keepdim=True))
    return (normalised(view.given("projected")) @ direction.mT)[..., 0].round(decimals=9)


def outlier_counts(
    attention: Tensor, text: Tensor, alive: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """How many tokens the published method keeps by [CLS], by text, and as centres: (B,) long each.

    ``attention``, ``text`` and ``alive`` (B, N).
    """
    visual_count = outliers(attention, alive, 20).sum(1)
    visual = top_k(attention, alive, visual_count)
    least = text.masked_fill(~alive, torch.inf).amin(1, keepdim=True)
    text = torch.where(visual, least, text)
    by_text = _share((alive & ~visual).sum(1), outliers(text, alive, 20), alive)
    main = visual | top_k(text, alive & ~visual, by_text)
    rest = alive & ~main
    return visual_count, by_text, _share(main.sum(1), outliers(attention, rest, 10), rest)


def outliers(values: Tensor, members: Tensor, neighbours: int) -> Tensor:
    """Whose local outlier factor among ``members`` (B, N) exceeds 1.5, (B, N) bool.

    ``values`` (B, N) are one-dimensional. Compared are the nearest ``neighbours``, or all others
    where there are fewer; of equally near ones the earlier.
    """
    values = values.double()
    distance = (values[:, :, None] - values[:, None, :]).abs()
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    distance = distance.masked_fill(~members[:, None, :], torch.inf)
    near, who = (part[..., :neighbours] for part in distance.sort(dim=2, stable=True))
    exists = near.isfinite()
    reach = torch.where(exists, near, 0).amax(2)
    number = exists.sum(2).clamp(min=1)

    def of_neighbours(facts: Tensor) -> Tensor:
        return facts[:, None].expand_as(distance).gather(2, who)

    spread = torch.where(exists, torch.maximum(near, of_neighbours(reach)), 0).sum(2) / number
    density = 1 / (spread + 1e-10)
    factor = torch.where(exists, of_neighbours(density), 0).sum(2) / number / density
    return (factor.round(decimals=9) > OUTLIER) & members


def _share(count: Tensor, found: Tensor, among: Tensor) -> Tensor:
    """``count`` (B,) times the share of ``found`` in ``among`` (B, N), rounded down."""
    return torch.div(count * found.sum(1), among.sum(1).clamp(min=1), rounding_mode="floor")


def _neighbours(view: View, split: _Split) -> Tensor:
    """Who joins which centre: (B, centre, token) fp32, 1 or 0."""
    rest = split.centres | split.left
    likeness = cosines(view.given("encoder_keys")) + TEXT_WEIGHT * split.text[:, None]
    likeness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    likeness = likeness.masked_fill(~(split.centres[:, :, None] & rest[:, None]), -torch.inf)
    best, who = (
        part[..., :NEIGHBOURS] for part in likeness.sort(dim=2, descending=True, stable=True)
    )
    return torch.zeros_like(likeness).scatter(2, who, best.isfinite().double()).float()
