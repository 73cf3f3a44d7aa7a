"""How far a decoder block moves each token: what TransPrune ranks by."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def transition(entered: Tensor, left: Tensor, alive: Tensor) -> Tensor:
    """Token transition variation of one block, (B, R) fp32 (TransPrune, arXiv 2507.20630 [code]).

    ``entered`` (B, R, D) is the block's normed input, ``left`` (B, R, D) its output before the
    residual is added. The change of length times the change of direction, the latter a softmax
    of 1 - cosine over the rows in ``alive`` (B, R) bool, text included; zero at the others.
    """
    entered, left = entered.float(), left.float()
    turned = 1 - cosine_similarity(entered, left, dim=-1)
    direction = turned.masked_fill(~alive, torch.finfo(turned.dtype).min).softmax(1)
    length = left.norm(dim=-1) / entered.norm(dim=-1).clamp(min=1e-6)
    return length * direction * alive
