"""Tokenizers that name no padding token, on either side: batches mean what they mean with one."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
import export
import train
from rcp import UserError
from rcp.choosing.tokens import IGNORED
from rcp.conversations import ConversationCollator, ConversationDataset
from tests.cli import settings
from tests.tiny_base import make_model, make_processor

pytest_plugins = ["tests.training_fixtures"]


def processor_without(*tokens: str, side: str = "left"):
    """The tiny base's processor, its tokenizer without these special tokens."""
    processor = make_processor()
    for token in tokens:
        setattr(processor.tokenizer, token, None)
    processor.tokenizer.padding_side = side
    return processor


CHOSEN = {
    ("pad_token",): "</s>",
    ("pad_token", "eos_token"): "<unk>",
    (): "<pad>",
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("missing", CHOSEN)
def test_a_batch_is_filled_with_the_next_best_token(missing, side, conversations):
    dataset, answered = ConversationDataset(conversations), "eos_token" not in missing
    items = [dataset[0], dataset[1]]
    expected = ConversationCollator(make_processor(), with_answers=answered)(items)
    processor = processor_without(*missing, side=side)
    found = ConversationCollator(processor, with_answers=answered)(items)
    assert processor.tokenizer.pad_token == CHOSEN[missing]
    ids, mask = found["inputs"]["input_ids"], found["inputs"]["attention_mask"].bool()
    assert torch.equal(mask, expected["inputs"]["attention_mask"].bool())
    assert torch.equal(ids[mask], expected["inputs"]["input_ids"][mask])
    assert torch.equal(found["labels"], expected["labels"])
    assert (~mask).any() and (ids[~mask] == processor.tokenizer.pad_token_id).all()
    if answered:  # the end of the answer is learned, that of the filling is not
        assert (found["labels"] == 2).sum(1).tolist() == [1, 1]
        assert (found["labels"][~mask] == IGNORED).all()
    with torch.no_grad():
        model = make_model().eval()
        logits = [model(**batch["inputs"]).logits[mask] for batch in (found, expected)]
    assert torch.equal(*logits)


def test_a_padding_token_that_is_no_token_is_none(conversations):
    processor = make_processor()
    processor.tokenizer._special_tokens_map["pad_token"] = "<nowhere>"
    ConversationCollator(processor)
    assert processor.tokenizer.pad_token == "</s>"


def test_without_any_token_to_take_it_is_refused():
    processor = processor_without("pad_token", "eos_token", "unk_token")
    with pytest.raises(UserError, match="names no padding token .*tokenizer_config.json"):
        ConversationCollator(processor, with_answers=False)


def test_answers_without_an_end_are_refused():
    with pytest.raises(UserError, match="no end-of-sequence token.*as eos_token"):
        ConversationCollator(processor_without("eos_token"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_training_export_and_evaluation_go_through(conversations: Path, tmp_path: Path):
    base = tmp_path / "base"
    make_model().save_pretrained(base)
    processor_without("pad_token").save_pretrained(base)
    assert json.loads((base / "tokenizer_config.json").read_text()).get("pad_token") is None
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(base, conversations, tmp_path)))
    assert train.main(["--config", str(config)]) == 0
    plugin = str(tmp_path / "plugin")
    checkpoint = str(tmp_path / "run" / "last.ckpt")
    assert export.main(["--checkpoint", checkpoint, "--output", plugin]) == 0
    line = ["--plugin", plugin, "--data", str(conversations), "--max-new-tokens", "2",
            "--no-controls", "--output", str(tmp_path / "rows.json")]
    assert evaluate.main(line) == 0
