"""Exported folders of earlier days give the numbers that they gave then."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

import rcp
from tests.make_golden import (
    GOLDEN,
    INPUTS,
    SPECS,
    answers,
    base_marks,
    golden_inputs,
    main,
)

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


FOLDERS = sorted(path.parent.name for path in GOLDEN.glob("*/plugin.json"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_gives_the_logits_it_gave(folder: str, tiny_llava):
    marks = base_marks(tiny_llava)
    if not torch.allclose(marks, load_file(INPUTS)["base"], rtol=1e-4, atol=1e-4):
        pytest.skip("this release of torch draws other random numbers, so the base is another one")
    expected = load_file(GOLDEN / folder / "expected.safetensors")
    given = answers(tiny_llava, rcp.load_plugin(GOLDEN / folder), golden_inputs())
    torch.testing.assert_close(given["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    assert torch.equal(given["tokens"], expected["tokens"])


def test_there_is_a_folder_of_each_kind_and_all_are_small():
    assert set(FOLDERS) == {*SPECS, SCALAR_BIAS.name}
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) < 300_000


def test_a_golden_folder_is_never_written_again():
    before = (GOLDEN / "merging" / "expected.safetensors").read_bytes()
    with pytest.raises(rcp.UserError, match="exists already"):
        main("merging")
    assert (GOLDEN / "merging" / "expected.safetensors").read_bytes() == before
