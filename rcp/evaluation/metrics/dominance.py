"""How far text outweighs the image in a layer's attention (arXiv 2508.10552 [note])."""

import torch
from torch import Tensor
from torchmetrics import Metric


class TextDominance(Metric):
    """Modality dominance and attention efficiency indices of one decoder layer.

    The attention efficiency index of a modality is its share of the attention that answer rows pay
    over its share of the tokens they could pay it to: AEI = P / Q. The modality dominance index is
    the attention a text token gets over what a visual one gets: MDI = (A_text / |text|) /
    (A_visual / |visual|) = AEI_text / AEI_visual; 1 is balance. Sums run over all rows of all
    samples before the division, so that a sample without visual tokens left adds text alone. [ours]
    """

    mass: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("mass", "tokens"):  # of text, of the image
            zeros = torch.zeros(2, dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, attention: Tensor, rows: Tensor, text: Tensor, visual: Tensor) -> None:
        """Add one batch.

        ``attention`` (B, H, Q, K): weights of the layer, causal zeros included; ``rows`` (B, Q)
        bool: the rows that predict the answer; ``text``, ``visual`` (B, K) bool: the keys of each
        modality, padding in neither. A row could attend to the keys up to its own, which is the
        last of the keys for the last row.
        """
        queries, keys = attention.shape[2:]
        own = torch.arange(keys - queries, keys, device=attention.device)[:, None]
        within = torch.arange(keys, device=attention.device) <= own
        weights = attention.double().mean(1) * rows[..., None]
        for index, modality in enumerate((text, visual)):
            members = modality[:, None] & within & rows[..., None]
            self.mass[index] += (weights * members).sum()
            self.tokens[index] += members.sum()

    def compute(self) -> dict[str, Tensor]:
        """``mdi``, ``aei_text`` and ``aei_visual``; NaN where there was no visual token."""
        share = self.mass / self.mass.sum()
        aei = share / (self.tokens / self.tokens.sum())
        return {"mdi": aei[0] / aei[1], "aei_text": aei[0], "aei_visual": aei[1]}
