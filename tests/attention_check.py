"""What CUDA asks of an attention and a CPU does not, asked of every attention in the tests."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import AttentionInterface


def check_gradients(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Fail where the mask alone wants a gradient.

    Memory-efficient attention saves the log-sum-exp that its backward pass reads only where query,
    key or value want a gradient; for a mask alone it raises "LSE is not correctly aligned".
    """
    if mask is None or not (mask.requires_grad and torch.is_grad_enabled()):
        return
    wanting = [tensor.requires_grad for tensor in (query, key, value)]
    assert any(wanting), "an attention mask wants a gradient that query, key and value do not want"


def checked(attend: Callable[..., Any]) -> Callable[..., Any]:
    """``attend``, an attention function of transformers, behind :func:`check_gradients`."""

    @wraps(attend)
    def attend_checked(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Any:
        check_gradients(query, key, value, attention_mask)
        return attend(module, query, key, value, attention_mask, **more)

    return attend_checked


def check_all(patch: pytest.MonkeyPatch) -> None:
    """Put every model's attention, whatever its implementation, behind the check."""
    chosen = AttentionInterface.get_interface

    def get_interface(self: Any, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        return checked(chosen(self, name, default))

    patch.setattr(AttentionInterface, "get_interface", get_interface)
