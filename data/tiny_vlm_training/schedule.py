"""Optimiser and learning rate shared by all stages."""

from __future__ import annotations

import math
from typing import Iterable

import torch
from torch import nn


def make_optimizer(modules: Iterable[nn.Module], weight_decay: float = 0.01) -> torch.optim.AdamW:
    """Fused AdamW; vectors (norms, biases) are not decayed."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, warmup: int,
             steps: int, floor: float = 0.1) -> None:
    """Linear warm-up to `peak`, then a cosine down to `floor` of it at `steps`."""
    progress = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    shape = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, (step + 1) / warmup) * shape
