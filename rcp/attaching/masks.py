"""Attention masks after tokens have gone: pure functions of tensors.

Two renderings of one plan. Training keeps all columns and biases the dead keys by
``log(c + 1e-12)``; inference gathers the rows and columns that are left. A mask comes in the
format its attention backend uses: ``None`` (plain causal), bool (True = attend), additive float,
or the 2-D padding mask of flash attention.
"""

import torch
from torch import Tensor

KEY_BIAS_EPS = 1e-12
"""1e-6 leaks attention sinks, 0 gives NaN, 1e-20 hurts bf16 gradients (measured)."""


def not_causal(query_columns: Tensor, key_columns: Tensor, window: int | None = None) -> Tensor:
    """(B, Q), (B, K) original columns → (B, 1, Q, K) bool: after the query, or out of its window.

    A window counts original positions, not cached rows.
    """
    queries, keys = query_columns[:, :, None], key_columns[:, None, :]
    forbidden = keys > queries
    if window is not None:
        forbidden = forbidden | (queries - keys >= window)
    return forbidden[:, None]


def causal(query_columns: Tensor, key_columns: Tensor, window: int | None = None) -> Tensor:
    """The opposite of :func:`not_causal`: what a query may attend to."""
    return ~not_causal(query_columns, key_columns, window)


def key_bias(kept: Tensor) -> Tensor:
    """``log(c + 1e-12)`` of ``kept`` (B, K) in fp32, as (B, 1, 1, K)."""
    return (kept.float() + KEY_BIAS_EPS).log()[:, None, None, :]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask (B, h, Q, K) as additive float ``dtype``; an additive one only cast."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )


def with_key_bias(mask: Tensor | None, bias: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """Add ``bias`` (B, 1, 1 or T, T) to the mask of a full-length forward; ``columns`` (B, T)."""
    if mask is None:
        mask = causal(columns, columns)
    floor = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    return (additive(mask, torch.float32) + bias).clamp(min=floor).to(dtype)


def meeting(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """``hidden`` (B, R, D) as an attention takes it whose ``mask`` may want a gradient.

    Memory-efficient attention on CUDA keeps what its backward pass reads only if query, key or
    value want a gradient. Where nothing before a layer is trained they do not, though its mask
    does: then the layer's input becomes a leaf that wants one, and the gradient ends there.
    """
    if mask is not None and mask.requires_grad and not hidden.requires_grad:
        return hidden.detach().requires_grad_()
    return hidden


def take_mask_rows(mask: Tensor, index: Tensor) -> Tensor:
    """Query rows ``index`` (B, Q) of a 4-D mask (B or 1, h, T, K) → (B, h, Q, K)."""
    mask = mask.expand(index.shape[0], *mask.shape[1:])
    index = index.to(mask.device)
    rows = index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
    return mask.gather(2, rows)


def take_mask_columns(mask: Tensor, index: Tensor) -> Tensor:
    """Key columns ``index`` (B, K) of a 4-D mask (B or 1, h, Q, T) → (B, h, Q, K)."""
    mask = mask.expand(index.shape[0], *mask.shape[1:])
    index = index.to(mask.device)
    columns = index[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
    return mask.gather(3, columns)


def forbid_keys(mask: Tensor, valid: Tensor) -> Tensor:
    """Mask the key columns where ``valid`` (B, K) is False, in the mask's own format."""
    valid = valid.to(mask.device)
    if mask.dtype == torch.bool:
        return mask & valid[:, None, None, :]
    return mask.masked_fill(~valid[:, None, None, :], torch.finfo(mask.dtype).min)


def gather_mask(
    mask: Tensor | None, index: Tensor, valid: Tensor | None, attention: str
) -> Tensor | None:
    """The model's own mask over the rows ``index`` (B, K) that are left.

    ``valid`` (B, K) is False at fillers, None where there are none; ``attention`` names the
    backend. ``None`` stays ``None`` unless fillers must be hidden.
    """
    if mask is None:
        if valid is None:
            return None
        return render(causal(index, index) & valid[:, None, None], valid, attention, torch.float32)
    if mask.dim() == 2:
        kept = mask.gather(1, index.to(mask.device))
        return kept if valid is None else kept * valid.to(kept)
    gathered = take_mask_columns(take_mask_rows(mask, index), index)
    return gathered if valid is None else forbid_keys(gathered, valid)


def render(
    allowed: Tensor, valid: Tensor | None, attention: str, dtype: torch.dtype
) -> Tensor | None:
    """A bool mask (B, h, Q, K) in the format of the backend ``attention``.

    Flash attention takes only the key validity (B, K), or None.
    """
    if attention.startswith("flash"):
        return valid
    return additive(allowed, dtype) if attention == "eager" else allowed
