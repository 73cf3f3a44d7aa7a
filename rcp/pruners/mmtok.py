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
        question = normalised(view.given("question_embeds")) / self.text_temperature
        encoder = normalised(view.given("encoder_tokens")) * self.image_temperature**-0.5
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
        less(worth, cover, weights, best, column)
        torch.maximum(best, column, out=best)
        return worth.scatter_(1, pick[:, None], NOBODY).round(decimals=12)

    return worth.round(decimals=12), after


def _less(worth: Tensor, cover: Tensor, weights: Tensor, best: Tensor, column: Tensor) -> None:
    """Take from ``worth`` (B, N) what no token adds any more where ``best`` (B, R) goes up to
    ``column`` (B, R)."""
    less = (cover - best[..., None]).clamp_(min=0)
    torch.minimum(less, (column - best).clamp_(min=0)[..., None], out=less)
    worth[:, None].baddbmm_(weights[:, None], less, alpha=-1)


def _less_by_few(
    worth: Tensor, cover: Tensor, weights: Tensor, best: Tensor, column: Tensor
) -> None:
    """Likewise on the host, where asking which rows go up costs nothing: few, after some picks."""
    for sample, rises in enumerate(column > best):
        rows = rises.nonzero()[:, 0]
        facts = (cover, weights, best, column)
        _less(worth[sample, None], *(fact[sample].index_select(0, rows)[None] for fact in facts))


def _even(rows: Tensor) -> Tensor:
    """The same weight for all of ``rows`` (B, R) bool, 1 a sample: (B, R) fp64."""
    rows = rows.double()
    return rows / rows.sum(1, keepdim=True).clamp(min=1)
