"""Nothing reads a weight: a decoder whose linear layers hold int8 is pruned like any other."""

import pytest
import torch
from torch import Tensor, nn

from rcp.backbones import backbone_for
from tests.decoding import REFERENCES, frozen
from tests.families import FAMILIES
from tests.families.batches import BATCHES
from tests.test_families import EFFECT, parity


class Int8(nn.Module):
    """A linear layer of int8 weights, which has neither ``weight`` nor parameters to be read."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("packed", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("offset", linear.bias)

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.packed * self.scale, self.offset)


def quantise(module: nn.Module) -> int:
    """Replace every linear layer in ``module``; how many there were."""
    count = 0
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Int8(child))
            count += 1
        else:
            count += quantise(child)
    return count


@pytest.mark.parametrize("name", FAMILIES)
def test_dropping_equals_masking_with_int8_weights(name):
    case = frozen(FAMILIES[name]())
    layers = backbone_for(case.model).layers
    assert quantise(layers) >= 4 * len(layers)
    assert parity(case, REFERENCES["question_attention"](), BATCHES["ragged"]) > EFFECT
