"""MMTok: tokens that cover both the question and the image."""

import torch
from torch import Tensor

from rcp.choosing.greedy import NOBODY, After, greedy, normalised, products
from rcp.choosing.view import View
from rcp.pruners.base import Pruner
from rcp.typed_values import check_range


class MMTokPruner(Pruner):
    """Greedy coverage of question and image (MMTok's code, ICLR 2026).

    How well token j covers question token i: softmax over j of cosine(question i, projected j) /
    0.02; how well it covers visual token i: softmax over j of cosine(encoder i, encoder j) / 0.2,
    at half the weight. Each pick adds most to the sum of best covers.

    Ours: the question is its token embeddings after the last image; stop words and the prompt's
    own closing words are not taken out, since a method knows no tokenizer. Costs O(N^2) a pick.
    """

    name = "mmtok"
    paper = "arXiv 2508.18264"
    needs = frozenset({"projected", "encoder_tokens", "question_embeds"})

    def __init__(
        self,
        hidden_size: int,
        *,
        text_temperature: float = 0.02,
        image_temperature: float = 0.2,
        image_weight: float = 0.5,
    ) -> None:
        super().__init__(hidden_size)
        check_range("text_temperature", text_temperature, 1e-6)
        check_range("image_temperature", image_temperature, 1e-6)
        check_range("image_weight", image_weight, 0)
        self.text_temperature = text_temperature
        self.image_temperature = image_temperature
        self.image_weight = image_weight

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive = view.alive
        question = normalised(view.given("question_embeds")).div_(self.text_temperature)
        encoder = normalised(view.given("encoder_tokens")).mul_(self.image_temperature**-0.5)
        texts, (batch, tokens) = question.shape[1], alive.shape
        logits = question.new_empty(batch, texts + tokens, tokens)
        projected = normalised(view.given("projected"))
        torch.matmul(question, projected.mT, out=logits[:, :texts])
        products(encoder, out=logits[:, texts:])
        logits.masked_fill_(~alive[:, None], torch.finfo(logits.dtype).min)
        weights = torch.cat(
            [_even(view.question_valid), self.image_weight * _even(alive)], dim=1
        )
        first, after = coverage(logits.softmax(-1), weights, alive)
        return greedy(first, after, alive, counts, view.limit(counts))


def coverage(cover: Tensor, weights: Tensor, alive: Tensor) -> tuple[Tensor, After]:
    """Worth of a token: what it adds to the weighted sum over rows of the best cover picked.

    ``cover`` (B, R, N) and ``weights`` (B, R) fp64, not negative; ``alive`` (B, N). Rounded to
    1e-12, so that equal tokens are equal whatever the order of the sum.
    """
    best = torch.zeros_like(weights)
    worth = (weights[:, None] @ cover)[:, 0].masked_fill_(~alive, NOBODY)
    less = _less_by_few if cover.is_cpu else _less

    def after(pick: Tensor) -> Tensor:
        column = cover.gather(2, pick[:, None, None].expand(-1, cover.shape[1], 1))[..., 0]
        less(worth, cover, weights, best, (column - best).clamp_(min=0))
        torch.maximum(best, column, out=best)
        return worth.scatter_(1, pick[:, None], NOBODY).round(decimals=12)

    return worth.round(decimals=12), after


def _less(worth: Tensor, cover: Tensor, weights: Tensor, best: Tensor, rise: Tensor) -> None:
    """Take from ``worth`` (B, N) what is added no more when ``best`` (B, R) goes up by ``rise``."""
    _take(worth, cover - best[..., None], weights, rise)


def _less_by_few(worth: Tensor, cover: Tensor, weights: Tensor, best: Tensor, rise: Tensor) -> None:
    """Likewise on a host, which need not wait to learn what rises: little, after a few picks."""
    for sample, rises in enumerate(rise):
        rows = rises.nonzero()[:, 0]
        few = (fact[sample].index_select(0, rows)[None] for fact in (cover, best, weights, rise))
        cover_of, best_of, weights_of, rise_of = few
        _take(worth[sample, None], cover_of.sub_(best_of[..., None]), weights_of, rise_of)


def _take(worth: Tensor, above: Tensor, weights: Tensor, rise: Tensor) -> None:
    """``above`` (B, R, N), which is used up: how much better than the best so far tokens cover."""
    torch.minimum(above.clamp_(min=0), rise[..., None], out=above)
    worth[:, None].baddbmm_(weights[:, None], above, alpha=-1)


def _even(rows: Tensor) -> Tensor:
    """The same weight for all of ``rows`` (B, R) bool, 1 a sample: (B, R) fp64."""
    rows = rows.double()
    return rows / rows.sum(1, keepdim=True).clamp(min=1)
