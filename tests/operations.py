"""What a forward costs where launches are the price: operations, and waits between host and device.

Both are counted without a clock, and are the same on every machine.
"""

import sys
from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from rcp.choosing import one_copy

SIDE, LAYERS, IMAGE = 12, 32, 999
VIEWS = {
    "view", "_unsafe_view", "transpose", "permute", "expand", "slice", "select", "unsqueeze",
    "squeeze", "t", "detach", "alias", "as_strided", "reshape", "split", "unbind",
    "_reshape_alias", "unflatten", "diagonal", "split_with_sizes", "lift_fresh", "is_same_size",
    "movedim",
}
"""Operations that move no data."""


class Operations(TorchDispatchMode):
    """Counts, by name, the operations that launch something on a GPU."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in VIEWS:
            self.names[name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.names.values())


WAITS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__index__", "__float__")
COPIES = ("tensor", "as_tensor", "from_numpy")


@contextmanager
def host_traffic(monkeypatch):
    """Counts what the package reads from a device, or sends to it, in the ``with`` block.

    "read" and "sent" are whole token maps; everything else has the name of what was called.
    """
    found = Counter()

    def counted(owner, name):
        before = getattr(owner, name)

        def instead(*args, **kwargs):
            caller = sys._getframe(1).f_code.co_filename
            ours = "/rcp/" in caller and not caller.endswith("one_copy.py")
            if ours:
                found[name] += 1
            return before(*args, **kwargs)

        monkeypatch.setattr(owner, name, instead)

    with monkeypatch.context() as patch:
        monkeypatch = patch
        for name in WAITS:
            counted(torch.Tensor, name)
        for name in COPIES:
            counted(torch, name)
        for name in ("read", "sent"):
            whole = getattr(one_copy, name)
            patch.setattr("rcp.choosing.tokens." + name, _noting(found, name, whole))
        yield found


def _noting(found, name, call):
    def instead(*args):
        found[name] += 1
        return call(*args)

    return instead


def deep_model():
    """32 layers over an image, no wider than they must be: what counts is how many operations."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=4,
        vocab_size=1000,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        image_size=14 * SIDE, patch_size=14,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def prompt(batch: int = 1, question: int = 64):
    """A prompt of ``batch`` equal rows, one image each."""
    torch.manual_seed(1)
    ids = [torch.ones(1).long(), torch.full((SIDE**2,), IMAGE), torch.randint(5, 900, (question,))]
    ids = torch.cat(ids).expand(batch, -1)
    pixels = torch.randn(batch, 3, 14 * SIDE, 14 * SIDE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
