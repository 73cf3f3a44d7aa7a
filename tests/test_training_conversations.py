"""Conversation files: what is read, and what is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import Gemma3Processor, PaliGemmaProcessor
from transformers.models.gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip import SiglipImageProcessorPil

from rcp import UserError
from rcp.choosing.tokens import IGNORED
from rcp.conversations import ConversationCollator, ConversationDataset, LoadedSample, Sample
from rcp.conversations.sample import TooLong, Unfit, Unreadable
from tests.tiny_base import (
    CHAT_TEMPLATE,
    IMAGE_SIZE,
    TOKENS,
    conversation,
    make_processor,
    write_conversations,
)

pytest_plugins = ["tests.training_fixtures"]


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in turns]


def test_the_first_turn_and_no_other_is_read(tmp_path: Path):
    turns = said(("human", "<image>\nhow many ?"), ("gpt", "two"))
    turns += said(("human", "is the red dark ?"), ("gpt", "red"))
    rows = [conversation(0), conversation(1, conversations=turns)]
    dataset = ConversationDataset(write_conversations(tmp_path / "all.json", rows))
    item = dataset[1]
    assert (item.sample.question, item.sample.answer) == ("<image>\nhow many ?", "two")
    assert item.images[0].size == (20, 24) and item.images[0].mode == "RGB"
    assert dataset.question_types == ("attribute", "counting")


def test_text_only_rows_several_images_and_an_image_folder_are_read(tmp_path: Path):
    rows = [
        {"conversations": said(("human", "how many ?"), ("gpt", "two"))},
        conversation(
            1,
            image=["images/0.png", "images/1.png"],
            conversations=said(("human", "<image><image>\nhow many ?"), ("gpt", "two")),
        ),
    ]
    write_conversations(tmp_path / "elsewhere" / "all.json", rows)
    moved = (tmp_path / "elsewhere" / "all.json").rename(tmp_path / "moved.json")
    dataset = ConversationDataset(moved, tmp_path / "elsewhere")
    assert [len(item.images) for item in dataset] == [0, 2]
    assert dataset.samples[0].id == "0"


def test_a_folder_stands_for_the_one_file_in_it(conversations: Path):
    assert ConversationDataset(conversations.parent).path == conversations
    (conversations.parent / "more.json").write_text("[]")
    with pytest.raises(UserError, match="holds 2 JSON files"):
        ConversationDataset(conversations.parent)


BAD_ROWS = {
    "has 0 '<image>' placeholder.* but 1 image": {
        "conversations": said(("human", "how many ?"), ("gpt", "two"))
    },
    "has 1 '<image>' placeholder.* but 2 image": {"image": ["images/0.png", "images/1.png"]},
    "has 1 '<image>' placeholder.* but 0 image": {"image": None},
    "has no conversation": {"conversations": []},
    "does not open with a 'human' turn": {
        "conversations": said(("gpt", "two"), ("human", "<image> how many ?"))
    },
    "begins with a system turn": {
        "conversations": said(("system", "answer"), ("human", "<image> how ?"), ("gpt", "two"))
    },
    "there is one turn alone": {"conversations": said(("human", "<image> how many ?"))},
    "the 'human' turn reads": {"conversations": said(("tool", "<image> how ?"), ("gpt", "two"))},
    "the 'gpt' turn reads": {"conversations": said(("human", "<image> how many ?"), ("gpt", " "))},
    "'<image>' placeholder in its answer": {
        "conversations": said(("human", "<image> how many ?"), ("gpt", "two <image>"))
    },
    "half a character": {"conversations": said(("human", "<image> how ?"), ("gpt", "\ud83d"))},
    "has the image 5, but": {"image": 5},
    "has the image None, but": {"image": [None]},
    "has the image {}, but": {"image": {}},
    "has images under 'image' and 'images'": {"images": ["images/1.png"]},
    "has no image, but 'picture' holds 'images/0.png'": {"image": None, "picture": "images/0.png"},
    "is an address": {"image": "https://example.org/0.png"},
    "are not base64": {"image": {"bytes": "!"}},
    r"turn reads \[0, 0, .{1,200}\.\.\.": {"conversations": [[0] * 1000] * 2},
}


@pytest.mark.parametrize("complaint", BAD_ROWS)
def test_a_bad_row_is_named_and_the_others_are_read(complaint: str, tmp_path: Path):
    rows = [conversation(0), conversation(7, **BAD_ROWS[complaint]), conversation(2)]
    path = write_conversations(tmp_path / "all.json", rows)
    dataset = ConversationDataset(path)
    assert [sample.id for sample in dataset.samples] == ["sample-0", "sample-2"]
    (fault,) = dataset.unreadable
    assert (fault.id, fault.row) == ("sample-7", 1)
    assert re.search(complaint, str(fault)) and "Sample 'sample-7' of" in str(fault)
    path.write_text(json.dumps(rows[1:2]))
    with pytest.raises(UserError, match=complaint):
        ConversationDataset(path)


@pytest.mark.parametrize("image", ["images/gone.png", "x" * 5000, "a\0b", "images", "."])
def test_an_image_that_is_not_there_is_a_sample_that_cannot_be_read(image: str, tmp_path: Path):
    path = write_conversations(tmp_path / "all.json", [conversation(7, image=image)])
    dataset = ConversationDataset(path)
    with pytest.raises(Unreadable, match="names the image '.*', which does not exist") as refusal:
        dataset[0]
    assert [str(fault) for fault in dataset.missing()] == [str(refusal.value)]
    assert len(str(refusal.value)) < 700


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[{]", "is not valid JSON"),
        ("[]", "holds an empty list"),
        ('{"id": 1}', "holds dict"),
        ('["a"]', "Sample '0' .* has no conversation"),
        ("[" * 100_000, "is not valid JSON"),
        (f"[{'9' * 5000}]", "is not valid JSON"),
        ('{"data": [5]}', "Sample '0' .* has no conversation"),
        ('{"questions": []}', "holds questions of VQAv2"),
        ('[{"question": "q", "answer": null}]', "the 'gpt' turn reads"),
        ('[{"question": "q", "answers": [null, null]}]', "the 'gpt' turn reads"),
        ('[{"question": "q", "answers": [{"text": "a"}]}]', "the 'gpt' turn reads"),
        ('[{"question": "", "answer": "a"}]', "the 'human' turn reads ''"),
        ('[{"query": "q", "response": "a"}]', "none of its fields .'query', 'response'. is one"),
        ('[{"question": "q", "answer": "a", "image": 5}]', "'0' .* has the image 5"),
        ('{"a": {"imageId": "7"}, "b": 5}', "Sample 'a' .* has no conversation"),
    ],
)
def test_a_file_with_nothing_to_read_is_refused(text: str, complaint: str, tmp_path: Path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        ConversationDataset(path)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig"])
def test_lines_may_hold_any_character_and_a_bad_one_is_named(coding: str, tmp_path: Path):
    path = write_conversations(tmp_path / "all.jsonl", [])
    rows = [conversation(n, question_type="a\u2028b\x85c") for n in range(2)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding=coding)
    assert ConversationDataset(path).question_types == ("a\u2028b\x85c",)
    path.write_bytes("\n".join([*lines, "{bad", ""]).encode(coding) + b'{"id": "\xff"}')
    dataset = ConversationDataset(path)
    assert len(dataset) == 2 and dataset.rows == 4
    for line, fault in zip((3, 4), dataset.unreadable, strict=True):
        assert f"line {line} of it" in str(fault) and fault.row == line - 1


def test_a_name_too_long_for_a_file_is_no_file():
    with pytest.raises(UserError, match="no conversation file"):
        ConversationDataset("x" * 5000)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(UserError, match="no conversation file .*make data"):
        ConversationDataset(tmp_path / "gone.json")


def test_an_unreadable_image_is_refused_with_its_sample(conversations: Path):
    (conversations.parent / "images" / "0.png").write_bytes(b"no image")
    dataset = ConversationDataset(conversations)  # opening decodes nothing
    with pytest.raises(UserError, match="images/0.png' of sample 'sample-3' cannot be read"):
        dataset[3]


# -- batches -----------------------------------------------------------------------------------


def tokens(words: str) -> list[int]:
    return make_processor().tokenizer(words, add_special_tokens=False).input_ids


def test_labels_are_answer_and_end_of_sequence_alone(conversations: Path):
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(make_processor())([dataset[0], dataset[1]])
    assert [row[row != IGNORED].tolist() for row in batch["labels"]] == [
        tokens("dark") + [2],
        tokens("two") + [2],
    ]
    ids, mask = batch["inputs"]["input_ids"], batch["inputs"]["attention_mask"]
    labelled = batch["labels"] != IGNORED
    assert torch.equal(ids[labelled], batch["labels"][labelled])
    assert labelled[:, -2:].all() and mask[:, -1].all() and mask[1, 0] == 0  # padding on the left
    assert (ids == 4).sum(1).tolist() == [TOKENS, TOKENS]
    assert (ids == 1).sum(1).tolist() == [1, 1]  # one begin-of-sequence token each
    assert batch["inputs"]["pixel_values"].shape == (2, 3, 16, 16)
    assert batch["ids"] == ["sample-0", "sample-1"]
    assert batch["answers"] == ["dark", "two"]
    assert batch["question_types"] == ["attribute", "counting"]


def test_prompts_end_where_the_answer_would_begin(conversations: Path):
    dataset = ConversationDataset(conversations)
    processor = make_processor()
    whole = ConversationCollator(processor)([dataset[0]])
    prompt = ConversationCollator(processor, with_answers=False)([dataset[0]])
    length = prompt["inputs"]["input_ids"].shape[1]
    assert torch.equal(prompt["inputs"]["input_ids"], whole["inputs"]["input_ids"][:, :length])
    assert (prompt["labels"] == IGNORED).all()
    assert (whole["labels"][0] != IGNORED).nonzero()[0] == length


def test_a_template_that_writes_the_begin_token_gets_no_second_one(conversations: Path):
    processor = make_processor()
    processor.chat_template = "<s>" + processor.chat_template
    batch = ConversationCollator(processor)([ConversationDataset(conversations)[0]])
    assert (batch["inputs"]["input_ids"] == 1).sum() == 1


def test_text_only_batches_have_no_pixels():
    sample = Sample("a", (), "how many ?", "two", "counting")
    batch = ConversationCollator(make_processor())([LoadedSample(sample, ())])
    assert set(batch["inputs"]) == {"input_ids", "attention_mask"}


def test_every_sample_is_given_its_own_images(conversations: Path):
    """Gemma 3 and SmolVLM would take a flat list for the images of the first sample."""
    tokenizer = make_processor().tokenizer
    tokenizer.boi_token = tokenizer.eoi_token = "<unk>"
    tokenizer.boi_token_id, tokenizer.image_token, tokenizer.image_token_id = 3, "<image>", 4
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer,
        chat_template=CHAT_TEMPLATE.replace("<image>", "<unk>"),
        image_seq_length=4,
    )
    one = ConversationDataset(conversations)[0]
    two = Sample("b", (), "<image><image>\nhow many ?", "two", "counting")
    text = Sample("c", (), "how many ?", "two", "counting")
    items = [LoadedSample(text, ()), LoadedSample(two, one.images * 2), one]
    inputs = ConversationCollator(processor)(items)["inputs"]
    assert (inputs["input_ids"] == 4).sum(1).tolist() == [0, 8, 4]
    assert len(inputs["pixel_values"]) == 3


def test_labels_that_a_processor_writes_are_not_ours(conversations: Path):
    """PaliGemma's are all ignored: a plug-in would find no row to repair in a prompt."""
    images = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    images.image_seq_length = 4
    tokenizer = make_processor().tokenizer
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)
    one = ConversationDataset(conversations)[0]
    batch = ConversationCollator(processor, with_answers=False)([one])
    assert "token_type_ids" in batch["inputs"] and "labels" not in batch["inputs"]


def test_a_processor_without_a_chat_template_is_refused():
    processor = make_processor()
    processor.chat_template = None
    with pytest.raises(UserError, match="LlavaProcessor has no chat template"):
        ConversationCollator(processor)


def test_a_sample_that_is_too_long_is_told_by_its_place(conversations: Path):
    dataset = ConversationDataset(conversations)
    long = Sample("wordy", (), "how many ? " * 30, "two", "counting")
    collator = ConversationCollator(make_processor(), max_length=40)
    with pytest.raises(Unfit, match="'wordy' has 97 tokens.* more than data.max_length = 40") as no:
        collator([dataset[0], LoadedSample(long, ())])
    assert list(no.value.faults) == [1] and isinstance(no.value.faults[1], TooLong)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ 'how' if add_generation_prompt else 'what is' }}", "not how the answered conv"),
        ("{{ 'ho' if add_generation_prompt else 'how red' }}", "changes how its prompt is token"),
    ],
)
def test_a_template_that_would_train_on_another_prompt_is_refused(template: str, complaint: str):
    processor = make_processor()
    processor.chat_template = template
    sample = Sample("a", (), "how many ?", "two", "counting")
    with pytest.raises(UserError, match=complaint):
        ConversationCollator(processor)([LoadedSample(sample, ())])
