"""Every question of a conversation as one that is trained on, with what was said before it."""

import json
from pathlib import Path

import pytest
import torch

import train
from rcp.__main__ import main as command
from rcp.base_model.fingerprint import _of_samples
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.conversations.source import open_conversations
from rcp.conversations.stream import StreamedTable, TrainingStream
from tests.cli import settings
from tests.tiny_base import conversation, make_processor, write_conversations

datasets = pytest.importorskip("datasets")

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SAID = ["<image>\nwhat is the red ?", "dark", "how many ?", "two", "what is dark ?", " red "]


def turns(*said: str) -> list[dict[str, str]]:
    speakers = ("human", "gpt") * len(said)
    return [{"from": who, "value": text} for who, text in zip(speakers, said)]


def written(folder: Path, *rows: dict[str, object]) -> Path:
    return write_conversations(folder / "all.json", list(rows))


def test_each_question_is_a_sample_with_what_was_said_before_it(tmp_path):
    path = written(tmp_path, conversation(0, conversations=turns(*SAID)), conversation(1))
    first, every = ConversationDataset(path), ConversationDataset(path, all_turns=True)
    assert [sample.id for sample in first.samples] == ["sample-0", "sample-1"]
    assert [sample.id for sample in every.samples] == [
        "sample-0", "sample-0 (question 2)", "sample-0 (question 3)", "sample-1"
    ]
    assert every.samples[0] == first.samples[0] and every.samples[3] == first.samples[1]
    third = every.samples[2]
    assert (third.question, third.answer) == ("what is dark ?", "red")
    assert third.earlier == ((SAID[0], "dark"), ("how many ?", "two"))
    assert third.images == first.samples[0].images and third.question_type == "attribute"
    assert every.numbers == [0, 0, 0, 1] and len(every[2].images) == 1
    assert every.lengths[2] > every.lengths[1] > every.lengths[0]


def test_an_image_belongs_to_the_questions_from_its_own_on(tmp_path):
    said = turns(SAID[0], "dark", "<image>\nhow many ?", "two")
    images = ["images/0.png", "images/1.png"]
    path = written(tmp_path, conversation(0, image=images, conversations=said))
    one, two = ConversationDataset(path, all_turns=True).samples
    assert [image.name for image in one.images] == ["0.png"]
    assert [image.name for image in two.images] == ["0.png", "1.png"]
    short = written(tmp_path, conversation(0, image=images, conversations=turns(*SAID)))
    with pytest.raises(Exception, match="has 1 '<image>' placeholder.s. in its questions, but 2"):
        ConversationDataset(short, all_turns=True)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ([{"from": "gpt", "value": "x"}] * 2, "after 2 turns.*'human'"),
        ([{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}], "after 2 turns.*'gpt'"),
        (turns("x", "<image>"), "placeholder in its answer"),
        ([5, 6], "after 2 turns"),
    ],
)
def test_a_later_turn_that_is_none_is_told_of_where_it_is_read(more, complaint, tmp_path):
    bad = conversation(0, conversations=[*turns(*SAID[:2]), *more])
    path = written(tmp_path, bad, conversation(1))
    assert not ConversationDataset(path).unreadable
    (fault,) = ConversationDataset(path, all_turns=True).unreadable
    with pytest.raises(Exception, match=complaint):
        raise fault
    assert command(["check-data", str(path)]) == 0
    assert command(["check-data", str(path), "--turns", "all"]) == 2


def test_a_question_without_an_answer_is_none(tmp_path):
    path = written(tmp_path, conversation(0, conversations=turns(*SAID[:5])))
    assert len(ConversationDataset(path, all_turns=True)) == 2


def test_pairs_and_plain_questions(tmp_path):
    pairs = [{"user": "what is the red ?", "assistant": "dark"},
             {"user": "how many ?", "assistant": "two"}]
    plain = {"id": "plain", "image": "images/1.png", "question": "how many ?", "answer": "two"}
    path = written(tmp_path, {"id": "a", "images": ["images/0.png"], "texts": pairs}, plain)
    samples = ConversationDataset(path, all_turns=True).samples
    assert [sample.id for sample in samples] == ["a", "a (question 2)", "plain"]
    assert samples[1].earlier == (("<image>\nwhat is the red ?", "dark"),)


def test_only_the_last_answer_is_trained_on(tmp_path):
    path = written(tmp_path, conversation(0, conversations=turns(*SAID)))
    dataset = ConversationDataset(path, all_turns=True)
    items = [dataset[number] for number in range(3)]
    processor = make_processor()
    batch = ConversationCollator(processor)(items)
    decode = processor.tokenizer.decode
    for row, answer in enumerate(["dark", "two", "red"]):
        labels = batch["labels"][row]
        assert decode(labels[labels >= 0]).split() == [answer, "</s>"]
    assert batch["answers"] == ["dark", "two", "red"]
    text = decode(batch["inputs"]["input_ids"][2][batch["labels"][2] < 0])
    spoken = text.split("<image>")[-1].split()
    assert spoken == ("what is the red ? ASSISTANT : dark </s> USER : how many ? ASSISTANT : two "
                      "</s> USER : what is dark ? ASSISTANT :").split()
    asked = ConversationCollator(processor, with_answers=False)([items[2]])
    ids = batch["inputs"]["input_ids"][2]
    kept = (batch["labels"][2] < 0) & (batch["inputs"]["attention_mask"][2] > 0)
    assert torch.equal(ids[kept], asked["inputs"]["input_ids"][0])


def test_a_token_of_the_processor_in_an_earlier_answer_is_refused(tmp_path):
    processor = make_processor()
    processor.video_token = "<video>"
    said = turns(SAID[0], "dark <video>", "how many ?", "two")
    path = written(tmp_path, conversation(0, conversations=said))
    dataset = ConversationDataset(path, all_turns=True)
    with pytest.raises(Exception, match="has '<video>' in its answer"):
        ConversationCollator(processor)([dataset[1]])


def test_tables_and_streams_give_the_same(tmp_path):
    rows = [conversation(0, conversations=turns(*SAID)), conversation(1)]
    path = written(tmp_path, *rows)
    expected = ConversationDataset(path, all_turns=True)
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "table" / "train.parquet")
    table = open_conversations(str(tmp_path / "table"), tmp_path, all_turns=True)
    assert table.samples == expected.samples
    assert [table[n].sample for n in range(4)] == expected.samples
    stream = StreamedTable(str(tmp_path / "table"), tmp_path, all_turns=True)
    rows_of_it = list(stream.rows())
    assert [stream.read(row) for row in rows_of_it] == expected.samples
    assert [row.place for row in rows_of_it[1:3]] == [
        "file 0 row 0 question 2", "file 0 row 0 question 3"
    ]
    shares = [[row.place for row in stream.rows(share, 2)] for share in (0, 1)]
    assert sorted(sum(shares, [])) == sorted(row.place for row in rows_of_it)

    def drawn(done: int) -> list[str]:
        drafts = iter(TrainingStream(stream, 1, 0, lambda: done, held=2))
        return [next(iter(next(drafts))).name for _ in range(8 - done)]

    assert drawn(3) == drawn(0)[3:], "a resumed stream counts questions"


@pytest.mark.parametrize("stored", ["file", "table"])
def test_check_data_names_a_row_once_and_a_missing_image_where_it_is_asked_of(
    stored, tmp_path, capsys
):
    """Of six questions: two of the first row are sound, the third's image is missing; the second
    row, whose text is unsound, is one problem, however many it would ask."""
    late = turns(*SAID[:4], "<image>\nwhat is dark ?", "red")
    images = ["images/0.png", "images/gone.png"]
    unsound = conversation(1, image=["images/1.png"], conversations=turns(*SAID[:5], " "))
    path = written(tmp_path, conversation(0, image=images, conversations=late), unsound)
    if stored == "table":
        (tmp_path / "table").mkdir()
        rows = datasets.Dataset.from_list(json.loads(path.read_text()))
        path = tmp_path / "table"
        rows.to_parquet(path / "train.parquet")
    asked = ["check-data", str(path), "--image-folder", str(tmp_path), "--turns", "all"]
    assert command(asked) == 2
    told = capsys.readouterr()
    assert "has 2 problems beside 2 sound samples" in told.err
    assert "sample-0 (question 3)" in told.out and told.out.count("sample-1") == 1


def test_caches_tell_turns_apart_and_know_those_of_before(tmp_path):
    path = written(tmp_path, conversation(0, conversations=turns(*SAID)))
    first, second, _ = ConversationDataset(path, all_turns=True).samples
    alone = type(second)(second.id, second.images, second.question, second.answer,
                         second.question_type)
    assert _of_samples([second]) != _of_samples([alone])
    assert _of_samples([first]) == _of_samples(ConversationDataset(path).samples)


def test_a_run_trains_on_all_turns_and_says_so(base_folder, tmp_path):
    rows = [conversation(n, conversations=turns(*SAID)) for n in range(4)]
    path = written(tmp_path / "data", *rows)
    values = settings(base_folder, path, tmp_path)
    values["data"] |= {"turns": "all", "batch_size": 6}
    values["model"]["teacher_cache"] = str(tmp_path / "cache")
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    assert train.main(["--config", str(tmp_path / "config.yaml")]) == 0
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    (summary,) = (
        value["training"]["data"] for value in checkpoint.values()
        if isinstance(value, dict) and "training" in value
    )
    assert summary["turns"] == "all" and summary["samples"] == 12
