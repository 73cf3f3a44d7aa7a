"""How the second embedded model is made: words, batches, lessons, and a training that resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from data.answering import answered
from data.drawing import box_of
from data.generate import SCENES
from data.kinds import KINDS
from data.kinds.strings import Sign, signs
from data.scenes import LETTERS, sample_scenes
from data.tiny_vlm_training.export import export_model
from data.tiny_vlm_training.model import model_config
from data.tiny_vlm_training.packing import IGNORE
from data.tiny_vlm_training.processor import make_tokenizer
from data.tiny_world_training.batches import collated, logits
from data.tiny_world_training.forms import FORMS, Form, Group, drawn
from data.tiny_world_training.lessons import edge_labels, sign_labels
from data.tiny_world_training.training import Progress, WorldTraining
from data.tiny_world_training.vocabulary import KNOWN, extend, make_world_processor

FOLDER = Path(__file__).parent.parent / "data" / "tiny-vlm"
SMALL = {name: replace(FORMS[name], batch=1) for name in ("scenes", "strings", "dialogues")}


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return make_world_processor()


@pytest.fixture(scope="module")
def model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """tiny-vlm with new words, as the training begins with."""
    model = LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    extend(model, len(processor.tokenizer), seed=0)
    return model


def micro(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(model_config(processor.tokenizer, 1))


# -- words -------------------------------------------------------------------------------------


def test_every_word_of_every_kind_is_known_and_answers_come_back_as_written(processor):
    tokenizer = processor.tokenizer
    for kind in KINDS.values():
        for example in islice(kind.examples("val", 0), 6):
            for question, answer in example.turns:
                ids = tokenizer(f"{question} {answer}")["input_ids"]
                assert tokenizer.unk_token_id not in ids
                said = tokenizer(answer, add_special_tokens=False)["input_ids"]
                assert tokenizer.decode(said) == answer
    assert tokenizer("[0.17, 1.00]", add_special_tokens=False).tokens() == [
        "[", "0.17", ",", "1.00", "]"]


def test_old_words_keep_their_numbers_and_their_logits(model, processor):
    """Bit for bit, on a question in the words of tiny-vlm."""
    old, new = make_tokenizer(), processor.tokenizer
    assert all(new.get_vocab()[word] == number for word, number in old.get_vocab().items())
    before = LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    ids = old("USER: " + "<image>" * 144 + "what colour is the star? ASSISTANT:",
              return_tensors="pt")["input_ids"]
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (which(input_ids=ids, pixel_values=pixels).logits
                      for which in (before, model))
    assert torch.equal(one, other[..., :len(old)])
    assert other.shape[-1] == len(new) == model.config.text_config.vocab_size


# -- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FORMS if n != "comparisons of 3"])
def test_a_conversation_in_a_batch_is_computed_as_by_itself(name, model, processor):
    """Against the ids and images that the processor makes of the whole conversation."""
    groups = drawn(replace(FORMS[name], batch=1), 0, 5)
    (group,) = groups
    batch = collated(processor.tokenizer, groups)
    with torch.no_grad():
        together, labels = logits(model, batch)
    number = len(group.asked) - 1
    turns = [{"role": role, "content": [{"type": "text", "text": text}]}
             for turn in group.asked[number] for role, text in zip(("user", "assistant"), turn)]
    text = processor.apply_chat_template(turns)  # the images stand in the text of the question
    inputs = processor(images=[Image.fromarray(image) for image in group.images], text=text,
                       return_tensors="pt")
    wanted = labels[batch.answers == number]
    ids = inputs["input_ids"][0].tolist()
    with torch.no_grad():
        alone = model(**inputs).logits[0]
    ends = [place for place, word in enumerate(ids) if word == processor.tokenizer.eos_token_id]
    assert wanted[-1] == processor.tokenizer.eos_token_id and len(ends) == len(group.asked[number])
    if len(ends) == 1:
        assert wanted.tolist() == ids[-len(wanted):]
        expected = alone[-len(wanted) - 1:-1]
    else:
        rows = [end - back for end in ends for back in (2, 1)]  # a word and the end of each turn
        expected = alone[rows]
        assert wanted.tolist() == [ids[row + 1] for row in rows]
    torch.testing.assert_close(together[batch.answers == number], expected, atol=2e-4, rtol=2e-4)


def test_batches_come_again_by_their_number_and_never_from_another_split():
    for name in ("places", "comparisons of 2"):
        first, again, other = (drawn(FORMS[name], 0, number) for number in (3, 3, 4))
        assert [g.asked for g in first] == [g.asked for g in again]
        assert [g.asked for g in first] != [g.asked for g in other]
        assert all(np.array_equal(a, b) for one, two in zip(first, again)
                   for a, b in zip(one.images, two.images))
        assert all(question.count("<image>") == len(group.images)
                   for group in first for ((question, _), *_) in group.asked)


def test_of_every_kind_there_is_a_form():
    assert {form.kind for form in FORMS.values()} == {SCENES, *KINDS}
    assert all(len(group.asked) > 0 for group in drawn(FORMS["scenes"], 1, 0))


# -- lessons -----------------------------------------------------------------------------------


def test_tokens_of_a_sign_are_labelled_with_the_letters_they_show():
    """Five letters of 6 pixels each from column 2 on, four tokens of 8 pixels a line."""
    sign = next(sign for sign in signs("train", 0) if len(sign.letters) == 5)
    sign = Sign(sign.scene, 6 + 2, ["C", "E", "H", "K", "L"])  # second line of cells, third cell
    letters, places = (part.reshape(12, 12) for part in sign_labels(sign))
    assert places[2:4, 4:8].tolist() == [[1, 2, 3, 5], [1, 2, 4, 5]]
    assert (places > 0).sum() == 8 == (letters != IGNORE).sum()
    assert letters[2, 4:8].tolist() == [LETTERS.index(letter) for letter in "CEHL"]
    short = Sign(sign.scene, 0, ["X", "Z"])  # columns 9 to 22: the outer tokens show no letter
    assert sign_labels(short)[1].reshape(12, 12)[:2, :4].tolist() == [[0, 1, 2, 0]] * 2


def test_every_token_of_an_object_is_labelled_with_its_edges():
    scene = next(sample_scenes("train", 0))
    edges = edge_labels(scene).reshape(12, 12, 4)
    cell = int(scene.occupied[0])
    row, column = divmod(cell, 6)
    block = edges[2 * row:2 * row + 2, 2 * column:2 * column + 2].reshape(4, 4)
    assert (block == np.array(box_of(scene, cell))).all()
    assert (edges[..., 0] != IGNORE).sum() == 4 * len(scene.occupied)


# -- the training ------------------------------------------------------------------------------


def trained(processor: LlavaProcessor, folder: Path, *ends: int) -> LlavaForConditionalGeneration:
    """A micro model after 4 steps, in a process of its own for each of ``ends``."""
    for end in ends:
        model = micro(processor)
        WorldTraining(model, processor.tokenizer, folder, 4, 0, SMALL).run(end)
    return model


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of lessons, one of new words, then everything; a line of the curve each step."""
    for name in ("FIRST", "SECOND", "REPORT"):
        monkeypatch.setattr(f"data.tiny_world_training.training.{name}", 1)


def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(short, processor, tmp_path):
    whole = trained(processor, tmp_path / "whole", 4)
    cut = trained(processor, tmp_path / "cut", 1, 2, 3, 4)
    assert all(torch.equal(value, cut.state_dict()[name])
               for name, value in whole.state_dict().items())
    curves = [[json.loads(line) | {"seconds": 0} for line in
               (tmp_path / name / "curve.jsonl").read_text().splitlines()]
              for name in ("whole", "cut")]
    assert curves[0] == curves[1] and [line["step"] for line in curves[0]] == [1, 2, 3, 4]
    assert set(curves[0][-1]["right"]) <= set(SMALL)
    assert set(curves[0][-1]["lessons"]) == {"letter", "place", "edge", "read", "drift"}
    assert not list(tmp_path.rglob("*.writing"))


def test_each_stage_moves_what_it_teaches_and_nothing_else(short, processor, tmp_path):
    """Lessons the tower, then the new words alone, then everything."""
    states = [{name: value.clone() for name, value in model.state_dict().items()} for model in (
        micro(processor), *(trained(processor, tmp_path, end) for end in (1, 2, 3)))]
    moved = [{name for name, value in after.items() if not torch.equal(value, before[name])}
             for before, after in zip(states, states[1:])]
    assert moved[0] and all("vision_tower" in n or "projector" in n for n in moved[0])
    assert moved[1] == {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    head = [state["lm_head.weight"] for state in states]
    torch.testing.assert_close(head[1][:KNOWN], head[2][:KNOWN], rtol=1e-4, atol=0)  # they decay
    assert not torch.allclose(head[1][KNOWN:], head[2][KNOWN:], rtol=1e-4, atol=0)
    assert any("layers.0" in n and "language_model" in n for n in moved[2]) and moved[0] < moved[2]


def test_lines_of_steps_that_are_done_again_leave_the_curve(short, processor, tmp_path):
    trained(processor, tmp_path, 1)
    curve = tmp_path / "curve.jsonl"
    kept = curve.read_text()
    curve.write_text(kept + json.dumps({"step": 2, "old": 1}) + "\n" + '{"step": 3, "sec')
    trained(processor, tmp_path, 2)
    assert curve.read_text().startswith(kept) and "old" not in curve.read_text()
    assert [json.loads(line)["step"] for line in curve.read_text().splitlines()] == [1, 2]


def test_no_minutes_read_the_weights_and_touch_no_file(short, processor, tmp_path):
    before = trained(processor, tmp_path, 1)
    with open(tmp_path / "curve.jsonl", "a") as file:
        file.write('{"step": 2}\n')  # of another process that is at step 2
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = micro(processor)
    WorldTraining(model, processor.tokenizer, tmp_path, 4, 0, SMALL).run(4, minutes=0)
    assert all(torch.equal(value, before.state_dict()[name])
               for name, value in model.state_dict().items())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_another_seed_than_the_state_was_begun_with_is_refused(processor, tmp_path):
    trained(processor, tmp_path, 1)
    with pytest.raises(SystemExit, match="--seed 0"):
        WorldTraining(micro(processor), processor.tokenizer, tmp_path, 4, 1, SMALL)


def test_known_forms_get_less_and_none_gets_nothing():
    forms = {name: Form("k", lambda seed: iter(()), 1, 1.0) for name in "abc"}
    progress = Progress(right={"a": 1.0, "b": 0.75})
    assert progress.shares(forms) == pytest.approx(
        np.array([0.15, 0.575, 1.0]) / (0.15 + 0.575 + 1.0))


# -- the folder --------------------------------------------------------------------------------


def test_the_folder_answers_like_the_model_and_random_dropping_of_nothing_changes_nothing(
    model, processor, tmp_path
):
    """A long answer: positions go on behind the tokens that are left."""
    export_model(model, tmp_path / "world", processor, 64)
    assert sum(file.stat().st_size for file in (tmp_path / "world").iterdir()) <= 20e6
    half = LlavaForConditionalGeneration.from_pretrained(tmp_path / "world", dtype=torch.float32)
    assert half.generation_config.max_new_tokens == 64
    asked = []
    for name in ("captions", "comparisons"):
        for example in islice(KINDS[name].examples("val", 0), 2):
            asked.append(([Image.fromarray(image) for image in example.images], example.turns))
    plain = answered(half.eval(), processor, asked, 12)
    assert plain == answered(half, processor, asked, 12, keep=1.0)
    assert len(plain) == 4


def test_a_group_of_two_lengths_is_padded_where_nobody_looks(model, processor):
    [one] = drawn(replace(FORMS["dialogues"], batch=1), 0, 0)
    short = Group(one.images, (one.asked[0][:1],))
    with torch.no_grad():
        alone, _ = logits(model, collated(processor.tokenizer, [short]))
        padded, _ = logits(model, collated(processor.tokenizer, [short, one]))
    torch.testing.assert_close(padded[:2], alone, atol=2e-4, rtol=2e-4)
