"""How tokens are drawn where a choice is tried out instead of made."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn one by one, each in proportion to exp(score) of those still there.

    The order of such draws without replacement is a Plackett-Luce sample of the scores, and the
    first k of it are the k highest of the scores plus Gumbel noise (Kool et al., arXiv 1903.06059).
    What is not drawn is gone physically, as at inference.
    """

    margin: ClassVar[float] = 1.0
    spread: ClassVar[float] = 0.3
    denoiser: ClassVar[None] = None

    def drawn(self, multiples: Tensor) -> Tensor:
        """``multiples`` (B,), logarithms, with normal noise of deviation ``spread``: how many are
        drawn, where that is learned."""
        return multiples + self.spread * torch.randn_like(multiples)

    def perturb(self, scores: Tensor) -> Tensor:
        """``scores`` (B, N) plus Gumbel noise, fp32: the order of the draws."""
        uniform = torch.rand(scores.shape, device=scores.device)
        uniform = uniform.clamp(min=torch.finfo(uniform.dtype).tiny)
        return scores.float() - (-uniform.log()).log()
