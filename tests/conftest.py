"""Shared fixtures: one thread, fixed seeds, checked attention, a tiny random LLaVA, its inputs."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from tests.attention_check import check_all
from tests.tiny import tiny_inputs, tiny_llava_model

NEED_PYARROW = ["test_evaluation_answers.py", "test_report_browser.py", "test_report_page.py",
                "test_report_values.py", "sets"]
# a bare machine with a GPU has none
collect_ignore = [] if find_spec("pyarrow") else NEED_PYARROW


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _attention_as_on_cuda(monkeypatch: pytest.MonkeyPatch):
    check_all(monkeypatch)


@pytest.fixture
def tiny_llava() -> nn.Module:
    """A random LLaVA: 6 layers, width 48, grouped keys, 16 visual tokens an image."""
    return tiny_llava_model()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Two left-padded rows, one image each."""
    return tiny_inputs()
