"""The Hugging Face model inside whatever others have put around it."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel


def unwrapped(model: nn.Module) -> nn.Module:
    """The one ``PreTrainedModel`` that ``model`` is or holds; ``model`` itself where there is none.

    Wrappers (PEFT's, torch.compile's, those of parallel training, one around the other) call it in
    their ``forward`` and ``generate``, so that what hangs on it acts in theirs, too. It is one if
    no other stands beside it: which of two were meant is unknown.
    """
    found = set(_outermost(model))
    return found.pop() if len(found) == 1 else model


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The models in ``module`` that are not parts of another one."""
    if isinstance(module, PreTrainedModel):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)
