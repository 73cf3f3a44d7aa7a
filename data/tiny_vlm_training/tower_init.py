"""A start for the tower in which every head already looks at one neighbouring token.

Learning from scratch *where* to look is most of a small vision transformer's training. Here the
first 24 channels of the position embedding are sines and cosines of row and column, and each
head's query is its key rotated by a fixed offset, which peaks on the token at that offset. All of
it stays trainable.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPVisionModel

from data.scenes import PATCHES
from data.tiny_vlm_training.settings import HEADS, WIDTH

HEAD_WIDTH = WIDTH // HEADS  # 24 channels: 6 frequencies x (row, column) x (cos, sin)
FREQUENCIES = torch.arange(1, HEAD_WIDTH // 4 + 1) * 2 * torch.pi / (PATCHES + 1)
AMPLITUDE = 0.25
SHARPNESS = 1.7
# Offsets (down, right) in tokens of the four heads, layer by layer. A cell is 2 tokens wide.
OFFSETS = (((0, -1), (0, 1), (-1, 0), (1, 0)), ((-1, -1), (1, 1), (-1, 1), (1, -1)),
           ((0, -2), (0, 2), (-2, 0), (2, 0)), ((0, -2), (0, 2), (-2, 0), (2, 0)))


def _waves(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """(n, 24) cosines and sines of positions (n,)."""
    angles = torch.cat([row[:, None] * FREQUENCIES, column[:, None] * FREQUENCIES], 1)
    return torch.cat([angles.cos(), angles.sin()], 1)


def _rotation(down: int, right: int) -> torch.Tensor:
    """(24, 24) matrix R with R waves(row, column) = waves(row + down, column + right)."""
    angles = torch.cat([down * FREQUENCIES, right * FREQUENCIES])
    cos, sin = angles.cos().diag(), angles.sin().diag()
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


@torch.no_grad()
def initialise_tower(tower: CLIPVisionModel) -> None:
    """Set position embedding, queries and keys in place."""
    weights = dict(tower.named_parameters())
    # Parameters are found by the end of their name: the path before it differs between versions.
    [positions] = [p for name, p in weights.items() if name.endswith("position_embedding.weight")]
    nn.init.zeros_(positions)
    grid = torch.arange(PATCHES * PATCHES)
    positions[1:, :HEAD_WIDTH] = AMPLITUDE * _waves(grid // PATCHES, grid % PATCHES)
    for layer, offsets in enumerate(OFFSETS):
        for kind in ("q_proj", "k_proj"):
            [weight] = [p for name, p in weights.items()
                        if name.endswith(f"layers.{layer}.self_attn.{kind}.weight")]
            noise = 0.05 * torch.randn_like(weight)
            for head, offset in enumerate(offsets):
                turn = _rotation(*offset) if kind == "q_proj" else torch.eye(HEAD_WIDTH)
                noise[head * HEAD_WIDTH:(head + 1) * HEAD_WIDTH, :HEAD_WIDTH] += SHARPNESS * turn
            weight.copy_(noise)
