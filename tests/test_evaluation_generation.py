"""What evaluation reports, against the same questions answered one by one by hand."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import rcp
from rcp.backbones import backbone_for
from rcp.base_model.cost import kv_bytes, paper_prefill_flops, per_layer, prefill_flops
from rcp.base_model.sizes import decoder_sizes
from rcp.choosing.schedule import Schedule, schedule_for
from rcp.conversations import ConversationDataset
from rcp.evaluation.contestants import Contestant, blinded, input_controls, schedule_controls
from rcp.evaluation.generation import Questions
from rcp.evaluation.images import blank_image, downsampled_input, patch_grid
from rcp.evaluation.scoring import Scoring
from rcp.plugin import stages_of
from tests.tiny import FILM_ARGUMENTS, RCP_ARGUMENTS, randomised
from tests.tiny_base import LAYERS, TOKENS, conversation, write_conversations

pytest_plugins = ["tests.training_fixtures"]

NEW_TOKENS = 4


@pytest.fixture
def model(base_folder):
    return AutoModelForImageTextToText.from_pretrained(base_folder).eval()


@pytest.fixture
def processor(base_folder):
    return AutoProcessor.from_pretrained(base_folder)


@pytest.fixture
def plugin(model):
    stages = [
        rcp.StageSpec(1, 0.5, "rcp", dict(RCP_ARGUMENTS)),
        rcp.StageSpec(3, 0.125, "rcp", dict(RCP_ARGUMENTS)),
    ]
    spec = rcp.PluginSpec(stages, rcp.RepairSpec([2, 3], "film", FILM_ARGUMENTS))
    return randomised(rcp.Plugin.for_model(spec, model))


def questions(model, processor, path, **changes):
    options = {"batch_size": 3, "max_new_tokens": NEW_TOKENS, **changes}
    return Questions(backbone_for(model), processor, ConversationDataset(path), **options)


def prompt(question):
    return f"USER: <image>\n{question} ASSISTANT:"


def answer_alone(model, processor, question, image):
    """One question, no padding, pixels given to ``generate`` itself."""
    inputs = processor(text=prompt(question), images=image, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True)


def with_answers_of(path, answer):
    """Rewrite the answers of a conversation file; returns them and the share that can be right.

    An empty answer cannot stand in a file: what replaces it is never generated.
    """
    rows = json.loads(path.read_text())
    answers = []
    for row in rows:
        question = row["conversations"][0]["value"].replace("<image>\n", "")
        with Image.open(path.parent / row["image"]) as image:
            answers.append(answer(question, image.convert("RGB")))
        row["conversations"][1]["value"] = answers[-1] or "unheard-of"
    path.write_text(json.dumps(rows))
    return set(answers), sum(map(bool, answers)) / len(answers)


def test_the_full_model_is_right_on_its_own_answers(model, processor, conversations):
    """Left padding, batching and encoding the images beforehand change no answer."""
    said, share = with_answers_of(conversations, lambda *q: answer_alone(model, processor, *q))
    assert len(said) > 1  # else a constant answer would pass
    (tally,) = questions(model, processor, conversations).answer([Contestant("full")])
    assert tally.accuracy == share > 0.5 and tally.samples == 8


def test_accuracy_by_type_counts_what_is_right(model, processor, conversations):
    _, share = with_answers_of(conversations, lambda *q: answer_alone(model, processor, *q))
    assert share == 1.0
    rows = json.loads(conversations.read_text())
    for wrong in (1, 3, 4):  # two of the four counting questions, one of the four attributes
        rows[wrong]["conversations"][1]["value"] = "none of this"
    conversations.write_text(json.dumps(rows))
    (tally,) = questions(model, processor, conversations).answer([Contestant("full")])
    assert tally.accuracy == 5 / 8
    assert tally.by_type == {"attribute": 0.75, "counting": 0.5}


def test_a_plugin_answers_as_it_does_alone(model, processor, conversations, plugin):
    """Side by side with others on shared batches, and with no hook left between them."""
    with rcp.attach(model, plugin, "drop"):
        _, share = with_answers_of(conversations, lambda *q: answer_alone(model, processor, *q))
    contestants = [Contestant("full"), Contestant("rcp", plugin), Contestant("full again")]
    full, pruned, again = questions(model, processor, conversations).answer(contestants)
    assert pruned.accuracy == share > 0.5
    assert full.accuracy == again.accuracy < share


class Lengths(Scoring):
    """A score of its own for each answer, and a figure that is no mean of them."""

    primary = "points"
    percent = False

    def score(self, answer, sample):
        return len(answer) / 100

    def figures(self, answers, samples):
        return {"points": 1000.0 + sum(map(len, answers)), "asked": float(len(samples))}


def test_another_scoring_judges_the_same_answers(model, processor, conversations):
    scoring = Lengths()
    asked = questions(model, processor, conversations, scoring=scoring)
    (tally,) = asked.answer([Contestant("full")])
    said = [len(answer.said) for answer in tally.answers]
    assert sum(said) and tally.scores == [length / 100 for length in said]
    assert tally.figures == {"points": 1000.0 + sum(said), "asked": 8.0}
    assert tally.accuracy == 1000.0 + sum(said)
    by_type = {"attribute": sum(said[::2]) / 400, "counting": sum(said[1::2]) / 400}
    assert tally.by_type == pytest.approx(by_type)


def test_answers_are_those_of_the_samples_they_say(model, processor, conversations):
    """In order, without those whose image cannot be opened, whatever the batches are."""
    rows = json.loads(conversations.read_text())
    rows[4]["image"] = "images/lost.png"
    conversations.write_text(json.dumps(rows))
    asked = questions(model, processor, conversations, batch_size=3)
    (tally,) = asked.answer([Contestant("full")])
    assert [answer.index for answer in tally.answers] == [0, 1, 2, 3, 5, 6, 7]
    assert [sample.id for sample in tally.asked] == [f"sample-{n}" for n in (0, 1, 2, 3, 5, 6, 7)]
    for answer, sample in zip(tally.answers, tally.asked):
        with Image.open(sample.images[0]) as image:
            question = sample.question.replace("<image>\n", "")
            assert answer.said == answer_alone(model, processor, question, image.convert("RGB"))


def test_the_first_questions_only(model, processor, conversations):
    (tally,) = questions(model, processor, conversations, limit=5).answer([Contestant("full")])
    assert tally.samples == 5


def test_tokens_and_bytes_are_those_of_the_schedule(model, processor, plugin, tmp_path):
    """Questions of one length, so that no padding is allocated."""
    rows = [conversation(2 * n) for n in range(5)]
    path = write_conversations(tmp_path / "data" / "even.json", rows)
    full, pruned = questions(model, processor, path).answer(
        [Contestant("full"), Contestant("rcp", plugin)]
    )
    assert full.visual == [TOKENS] * LAYERS
    assert pruned.visual == [16, 8, 8, 2] and pruned.mean_tokens == 8.5
    facts = decoder_sizes(backbone_for(model))
    text = len(processor.tokenizer(prompt("what is the red ?"))["input_ids"]) - 1
    held = per_layer((1, 2, 1), [text + kept for kept in (16, 8, 2)])
    by_layer = kv_bytes(facts, held, value_bytes=4)
    assert pruned.kv_bytes == sum(by_layer)
    assert pruned.kv_bytes_per_layer == pytest.approx(by_layer)
    assert pruned.flops == prefill_flops(facts, held)
    assert pruned.paper_flops == paper_prefill_flops(facts.hidden, facts.intermediate, held)


def test_padding_is_shared_out_over_the_layers(model, processor, conversations, plugin):
    (found,) = questions(model, processor, conversations).answer([Contestant("rcp", plugin)])
    by_layer = found.kv_bytes_per_layer
    assert sum(by_layer) == pytest.approx(found.kv_bytes) and by_layer[1] == by_layer[2]
    assert by_layer[0] > by_layer[1] > by_layer[3] > 0


def test_a_threshold_plugin_is_measured_not_assumed(model, processor, conversations, plugin):
    spec = rcp.PluginSpec(plugin.spec.stages, plugin.spec.repair, selection="threshold")
    threshold = randomised(rcp.Plugin.for_model(spec, model))
    batch = questions(model, processor, conversations).prepare(
        [ConversationDataset(conversations)[n] for n in range(8)]
    )
    with torch.no_grad(), rcp.attach(model, threshold, "drop"):
        kept = rcp.plan_of(model(**batch["inputs"]).past_key_values).kept.float()
    (tally,) = questions(model, processor, conversations).answer([Contestant("rcp", threshold)])
    first, second = kept.mean(1).tolist()
    assert tally.visual == pytest.approx([16, first, first, second])
    assert first not in (8, 16)  # its ratio would keep 8


def test_text_without_an_image_is_answered(model, processor, plugin, tmp_path):
    row = conversation(0)
    row["conversations"][0]["value"] = "what is the red ?"
    del row["image"]
    path = write_conversations(tmp_path / "data" / "text.json", [row])
    (tally,) = questions(model, processor, path).answer([Contestant("rcp", plugin)])
    assert tally.visual == [0] * LAYERS


def test_the_blank_image_is_the_mean_colour(model, processor, conversations):
    colour = tuple(round(255 * mean) for mean in processor.image_processor.image_mean)

    def answer_blank(question, image):
        return answer_alone(model, processor, question, Image.new("RGB", image.size, colour))

    _, share = with_answers_of(conversations, answer_blank)
    asked = questions(model, processor, conversations)
    full, blank = asked.answer([Contestant("full"), blank_image(asked.prepare, processor)])
    assert blank.accuracy == share > full.accuracy
    grey = Image.new("RGB", (9, 9), colour)
    inputs = processor(text=prompt("?"), images=grey, return_tensors="pt")
    assert inputs["pixel_values"].abs().max() < 0.02


@pytest.mark.parametrize("tokens, grid", [(16, (4, 4)), (8, (2, 4)), (13, (3, 4)), (1, (1, 1))])
def test_the_grid_of_a_smaller_image(tokens, grid):
    assert patch_grid(tokens) == grid


def test_a_smaller_image_enters_with_its_own_tokens(model, processor, conversations):
    asked = questions(model, processor, conversations)
    small = downsampled_input(8, asked.backbone, processor)
    full, tally = asked.answer([Contestant("full"), small])
    assert tally.visual == [8] * LAYERS and full.visual == [TOKENS] * LAYERS
    samples = asked.first(1)
    features = small.prepare(samples)["inputs"]["mm_encoder_outputs"]["image"].pooler_output
    width = model.config.text_config.hidden_size
    assert torch.cat(list(features)).reshape(-1, width).shape == (8, width)
    assert processor.image_processor.size["height"] == 16  # the processor itself is untouched


def test_controls_keep_as_many_tokens_layer_by_layer(model, processor, conversations, plugin):
    controls = schedule_controls(plugin, plugin.schedule, model, seeds=2)
    names = [control.method for control in controls]
    assert names == ["random", "random", "uniform", "question_attention"]
    for tally in questions(model, processor, conversations).answer(controls):
        assert tally.visual == [16, 8, 8, 2]


def test_input_controls_spend_the_mean_before_the_decoder(model, processor, conversations, plugin):
    controls = input_controls(plugin.mean_ratio, model, LAYERS, seeds=2)
    assert [c.method for c in controls] == ["random_input", "random_input", "uniform_input"]
    for tally in questions(model, processor, conversations).answer(controls):
        assert tally.visual == [9] * LAYERS  # 8.5 on average


def test_random_seeds_differ(model, plugin):
    first, second, *_ = schedule_controls(plugin, plugin.schedule, model, seeds=2)
    assert [c.plugin.spec.stages[0].arguments["seed"] for c in (first, second)] == [0, 1]


def test_a_control_is_left_out_where_it_is_the_plugin_itself(model):
    schedule = Schedule((1,), (0.5,), LAYERS)
    spec = rcp.PluginSpec([rcp.StageSpec(1, 0.5, "question_attention")])
    uniform = rcp.Plugin.for_model(spec, model)
    names = {c.method for c in schedule_controls(uniform, schedule, model, seeds=1)}
    assert names == {"random", "uniform"}


def test_blinding_keeps_the_weights_and_the_repair(plugin):
    blind = blinded(Contestant("rcp", plugin))
    assert blind.method == "rcp_blind"
    assert all(blind.plugin.pruner(layer).blind for layer in (1, 3))
    assert not any(plugin.pruner(layer).blind for layer in (1, 3))
    mine, theirs = plugin.state_dict(), blind.plugin.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_stage_that_keeps_nothing_is_blind_already(model):
    schedule = schedule_for(0.4, (1,), LAYERS, wiped_from=3)
    spec = rcp.PluginSpec(stages_of(schedule, "rcp", **RCP_ARGUMENTS))
    plugin = rcp.Plugin.for_model(spec, model)
    blind = blinded(Contestant("rcp", plugin)).plugin
    assert blind.pruner(1).blind and not plugin.pruner(1).blind
    assert blind.schedule == plugin.schedule == schedule


def test_what_has_no_question_cannot_be_blinded(model):
    spec = rcp.PluginSpec([rcp.StageSpec(1, 0.5, "uniform")])
    assert blinded(Contestant("uniform", rcp.Plugin.for_model(spec, model))) is None
