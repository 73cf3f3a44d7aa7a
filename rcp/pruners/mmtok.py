"""MMTok: tokens that cover both the question and the image."""

import torch
from torch import Tensor

from rcp.choosing.greedy import NOBODY, After, greedy, normalised
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
        self.text_temperature = text_temperature
        self.image_temperature = image_temperature
        self.image_weight = image_weight

    def select(self, view: View, counts: Tensor) -> Tensor:
        alive = view.alive
        question = normalised(view.given("question_embeds"))
        projected = normalised(view.given("projected"))
        encoder = normalised(view.given("encoder_tokens"))
        of_text = question @ projected.mT / self.text_temperature
        of_image = encoder @ encoder.mT / self.image_temperature
        cover = torch.cat(
            [
                _shares(of_text, view.question_valid, alive),
                self.image_weight * _shares(of_image, alive, alive),
            ],
            dim=1,
        )
        first, after = coverage(cover, alive)
        return greedy(first, after, alive, counts, view.limit(counts))


def coverage(cover: Tensor, alive: Tensor) -> tuple[Tensor, After]:
    """Worth of a token: what it adds to the sum over rows of the best cover among the picked.

    ``cover`` (B, R, N) fp64, not negative; ``alive`` (B, N). Rounded to 1e-12, so that equal
    tokens are equal whatever the order of the sum.
    """
    best = torch.zeros_like(cover[..., :1])
    blocked = torch.where(alive, 0.0, NOBODY).to(cover)

    def worth() -> Tensor:
        added = (cover - best).clamp(min=0).sum(1)
        return (added * 1e12).round() + blocked

    def after(pick: Tensor) -> Tensor:
        column = cover.gather(2, pick[:, None, None].expand(-1, cover.shape[1], 1))
        torch.maximum(best, column, out=best)
        blocked.scatter_(1, pick[:, None], NOBODY)
        return worth()

    return worth(), after


def _shares(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax over the ``columns`` (B, N) there are; the ``rows`` (B, R) there are weigh alike."""
    lowest = torch.finfo(logits.dtype).min
    shares = logits.masked_fill(~columns[:, None, :], lowest).softmax(-1) * columns[:, None, :]
    return shares * rows[..., None] / rows.sum(1).clamp(min=1)[:, None, None]
