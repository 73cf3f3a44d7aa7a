"""How a hard choice is softened while training."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Relaxation:
    """Temperature and noise of the choice while training (RCP [draft]).

    ``hard``: tokens are kept or not, and a straight-through gradient reaches the scores; else each
    is retained by its sigmoid, a number between 0 and 1 (CoViPAL stage 2 [note]).
    ``temperature`` divides the score inside the sigmoid; ``noise`` scales the logistic noise
    added to the score, 0 for none. ``margin``, if given, drops the tokens ranked beyond ``margin``
    times a stage's count physically while training too: their gradient is negligible, and they
    cost most of the time. [ours] ``denoiser``, if given, makes it the noise gate of
    :mod:`rcp.choosing.noise_gate`: no token is dropped or hidden, each is mixed with as much noise
    as it lacks of being kept, and this makes of the mixed rows what the decoder reads.
    """

    temperature: float = 1.0
    noise: float = 0.0
    margin: float | None = None
    hard: bool = True
    denoiser: nn.Module | None = None

    def perturb(self, scores: Tensor) -> Tensor:
        """``scores`` (B, N) fp32 plus logistic noise, the difference of two Gumbel draws."""
        if self.noise == 0:
            return scores
        uniform = torch.rand(scores.shape, device=scores.device)
        uniform = uniform.clamp(1e-6, 1 - 1e-6)
        return scores + self.noise * (uniform.log() - (-uniform).log1p())
