"""How a model's attention to visual tokens grows along the sequence: what debiasing divides by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.attach import attach
from rcp.conversations import Batch, on_device
from rcp.plugin import Plugin, PluginSpec

BINS = 64
"""Places along the visual tokens at which attention is averaged."""


@dataclass(frozen=True)
class Trend:
    """f(x) = ``scale`` · exp(``growth`` · x), x the number of a visual token over their count."""

    scale: float
    growth: float


@torch.no_grad()
def attention_trends(
    model: Any, batches: Iterable[Batch], layers: Sequence[int]
) -> dict[int, Trend]:
    """The trend of the question's attention to the visual tokens in each of ``layers``.

    Attention is mean over heads and question rows of the full model; each sample's is divided by
    its mean over tokens, and the mean over samples is fitted (Debiasing, arXiv 2508.17807 [code],
    the fit in the logarithm [ours]).
    """
    sums = {layer: torch.zeros(BINS, dtype=torch.float64) for layer in layers}
    counts = torch.zeros(BINS, dtype=torch.float64)
    observer = Plugin.for_model(PluginSpec(stages=[]), model)
    for batch in batches:
        with attach(model, observer, "record") as handle, handle.trace(layers) as trace:
            model(**on_device(batch, model.device)["inputs"])
        exists = trace.visual_valid
        if not trace.question_attention or exists is None:
            continue
        total = exists.sum(1, keepdim=True).clamp(min=1)
        rank = torch.arange(exists.shape[1], device=exists.device)
        where = torch.div(rank * BINS, total, rounding_mode="floor").clamp(max=BINS - 1)
        counts += _binned(exists.double(), where)
        for layer, attention in trace.question_attention.items():
            attention = attention.double() * exists
            mean = attention.sum(1, keepdim=True) / total
            sums[layer] += _binned(attention / mean.clamp(min=1e-30), where)
    return {layer: fitted(found / counts.clamp(min=1), counts > 0) for layer, found in sums.items()}


def fitted(attention: Tensor, known: Tensor) -> Trend:
    """Least squares of log ``attention`` (BINS,) over the bins that are ``known`` (BINS,) bool."""
    places = ((torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS)[known]
    logs = attention[known].clamp(min=1e-30).log()
    if len(places) < 2:
        return Trend(1.0, 0.0)
    centred = places - places.mean()
    growth = (centred * logs).sum() / centred.square().sum()
    return Trend((logs.mean() - growth * places.mean()).exp().item(), growth.item())


def _binned(values: Tensor, where: Tensor) -> Tensor:
    """``values`` (B, N) added up by bin ``where`` (B, N): (BINS,) on the CPU."""
    found = torch.zeros(BINS, dtype=torch.float64, device=values.device)
    return found.scatter_add(0, where.flatten(), values.flatten()).cpu()
