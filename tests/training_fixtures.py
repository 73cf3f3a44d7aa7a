"""Fixtures of the training tests: a base model on disk and conversations to train on."""

from pathlib import Path

import pytest

from tests.tiny_base import conversation, make_model, make_processor, write_conversations


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and processor as ``from_pretrained`` reads them."""
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """Eight samples of two question types."""
    return write_conversations(tmp_path / "data" / "all.json", [conversation(n) for n in range(8)])
