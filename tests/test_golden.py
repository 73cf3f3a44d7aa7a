"""Exported folders of earlier days give the numbers that they gave then."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rcp
from tests.tiny import tiny_inputs

GOLDEN = Path(__file__).parent / "golden"
SCALAR_BIAS = GOLDEN / "rcp_scalar_bias"
"""Written when RCP's bias was a tensor of no dimension, which DeepSpeed cannot broadcast."""


def test_the_old_folder_is_the_old_folder():
    digest = hashlib.sha256((SCALAR_BIAS / "plugin.safetensors").read_bytes()).hexdigest()
    assert digest == "d2103d410c9def9d0db44a5ec8edc103e73539abe8f2497dbd1a3e050f16d8d0"
    bias = load_file(SCALAR_BIAS / "plugin.safetensors")["pruners.1.bias"]
    assert bias.shape == ()


def test_a_lone_number_fills_a_parameter_of_one_value(tiny_llava):
    saved = load_file(SCALAR_BIAS / "plugin.safetensors")
    plugin = rcp.load_plugin(SCALAR_BIAS)
    assert plugin.pruner(1).bias.shape == (1,)
    assert plugin.pruner(1).bias.item() == saved["pruners.1.bias"].item()


@pytest.mark.parametrize("folder", sorted(path.name for path in GOLDEN.iterdir()))
def test_a_folder_gives_the_logits_it_gave(folder: str, tiny_llava):
    expected = load_file(GOLDEN / folder / "expected.safetensors")
    plugin = rcp.load_plugin(GOLDEN / folder)
    inputs = tiny_inputs()
    with rcp.attach(tiny_llava, plugin), torch.no_grad():
        logits = tiny_llava(**inputs).logits[:, -1]
        tokens = tiny_llava.generate(**inputs, max_new_tokens=4, do_sample=False)[:, -4:]
    torch.testing.assert_close(logits, expected["logits"], rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens, expected["tokens"])
