"""`python -m rcp estimate` of phases, labels and cache: against what they really take."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

import rcp
from rcp.__main__ import main
from rcp.attaching.given_images import encode_images, given_images
from rcp.backbones import backbone_for
from rcp.base_model.cost import layer_flops, prefill_flops
from rcp.base_model.sizes import decoder_sizes
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.objectives.relevance import relevance
from rcp.training.estimate.memory import StepSizes, kept_per_row, memory
from rcp.training.estimate.teaching import Steps, cache_line, kept_bytes
from rcp.training.phases import GuideOptions, PolicyOptions
from rcp.training.teacher.cache import kept_answers, kept_relevance
from rcp.training.teacher.passes import answers_of, relevant
from tests.test_training_plugin import options, training
from tests.tiny import reference_plugin, tiny_inputs, tiny_llava_model
from tests.tiny_base import LAYERS, TOKENS

pytest_plugins = ["tests.training_fixtures"]

FACTS = decoder_sizes(backbone_for(tiny_llava_model()))
FULL, STUDENT, DRAWN = [40] * 6, [40, 20, 20, 10, 10, 10], [40, 15, 15, 8, 8, 8]


def steps(
    guide: GuideOptions | None,
    answers: bool = True,
    learns: bool = True,
    policy: PolicyOptions | None = None,
) -> Steps:
    return Steps(FACTS, FULL, STUDENT, 1, guide, answers, learns, policy, drawn=DRAWN)


def gflops(line: str) -> float:
    return float(line.partition(": ")[2].split()[0])


def test_each_phase_costs_the_passes_it_makes():
    full, student = prefill_flops(FACTS, FULL) / 1e9, prefill_flops(FACTS, STUDENT) / 1e9
    backward = prefill_flops(FACTS, STUDENT[1:]) / 1e9
    draws = 4 * prefill_flops(FACTS, DRAWN) / 1e9
    policy = PolicyOptions(0.5, group=4)
    to_layer = 4 * layer_flops(FACTS, 40) / 1e9
    one, half = {"online": True, "share": 1.0}, {"share": 0.5}
    for found, expected in (
        (steps(None), [full + student + backward]),
        (steps(None, answers=False), [student + backward]),
        (steps(GuideOptions(**half)), [2 * full, full + student + backward]),
        (steps(GuideOptions(4, **half)), [to_layer, full + student + backward]),
        (steps(GuideOptions(share=1.0)), [2 * full]),
        (steps(GuideOptions(**one)), [2 * full + student + backward]),
        (steps(GuideOptions(**one), answers=False), [2 * full + student + backward]),
        (steps(GuideOptions(**one), learns=False), [2 * full]),
        (steps(GuideOptions(4, **one)), [full + student + backward]),
        (steps(GuideOptions(4, **one), answers=False), [to_layer + student + backward]),
        (steps(GuideOptions(online=True, share=0.5)),
         [2 * full + student + backward, full + student + backward]),
        (steps(GuideOptions(share=0.25), policy=policy),
         [2 * full, draws, full + student + backward]),
        (steps(GuideOptions(**half), policy=policy), [2 * full, draws]),
        (steps(None, policy=policy), [draws, full + student + backward]),
        (steps(None, policy=PolicyOptions(1.0, group=4)), [draws]),
    ):
        assert list(map(gflops, found.lines())) == pytest.approx(expected, rel=1e-3)


def test_a_label_costs_what_its_passes_do(base_folder: Path, conversations: Path):
    """Within a tenth: there are a few rows of logits where the estimate has one."""
    module = training(base_folder, options())
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[0]])
    with given_images(module.model, encode_images(module.model, batch["inputs"])):
        with FlopCounterMode(display=False) as counter:
            relevant(module.model, module.plugin, batch)
    facts = decoder_sizes(backbone_for(module.model))
    rows = [batch["labels"].shape[1]] * LAYERS
    told = Steps(facts, rows, rows, 0, GuideOptions(), answers=False, learns=True).label
    assert counter.get_total_flops() == pytest.approx(told, rel=0.1)


def test_what_is_kept_has_the_size_that_was_told(base_folder: Path, conversations: Path):
    module = training(base_folder, options())
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[n] for n in range(4)])
    images = encode_images(module.model, batch["inputs"]).pooler_output
    parts = module.model, module.plugin, batch
    kept = {
        "images": {str(number): image for number, image in enumerate(images)},
        "answers": kept_answers(batch, *answers_of(*parts, range(LAYERS))),
        "relevance": kept_relevance(batch, relevant(*parts).relevance, [TOKENS] * 4),
    }
    facts = decoder_sizes(backbone_for(module.model))
    told = kept_bytes(facts, TOKENS, answers=2, value_bytes=4)  # a word, and the end
    assert {part: sum(value.nbytes for value in tensors.values()) / 4
            for part, tensors in kept.items()} == told


def test_sizes_are_told_in_units_of_their_own():
    line = cache_line({"images": 3 * 2**20, "relevance": 512}, 2**20, used=True)
    assert "images 3 MiB, relevance 512 B" in line and "1048576 samples 3 TiB" in line


def test_the_pass_for_relevance_is_in_memory_before_the_students():
    sizes = {"facts": FACTS, "rows": [10] * 6, "first": 0, "answers": 4, "batch": 8,
             "value_bytes": 2, "base": 1000, "base_bytes": 4, "plugin": 100}
    none, some = memory(StepSizes(**sizes)), memory(StepSizes(**sizes, relevant=[40, 40]))
    row = kept_per_row(FACTS, 2)
    teacher = 2 * 40 * row + 2 * 40**2 * (4 + 4 + 4 + 2)
    assert none["relevance"] == 0
    assert some["relevance"] == 8 * (teacher - 60 * row) and some["student"] == none["student"]
    assert some["attention bias"] == 16 * none["attention bias"]
    less = memory(StepSizes(**sizes, relevant=[40, 40], checkpointing=True))
    both = "student", "relevance"
    assert sum(less[name] for name in both) < sum(some[name] for name in both)


def test_draws_hold_what_enters_what_stages_see_and_logits():
    """By hand: more than a step end to end only where the group is large."""
    sizes = {"facts": FACTS, "rows": [10] * 6, "first": 0, "answers": 4, "batch": 8,
             "value_bytes": 2, "base": 1000, "base_bytes": 4, "plugin": 100}
    none = memory(StepSizes(**sizes))
    some = memory(StepSizes(**sizes, group=100, present=40, drawn=[15, 9], seen=44))
    each = 84 * FACTS.hidden * 2 + 15 * kept_per_row(FACTS, 2) + 4 * FACTS.vocab * 6
    assert none["policy"] == 0
    assert some["policy"] == 800 * each - none["student"] - none["logits"]
    assert memory(StepSizes(**sizes, group=1, present=40, drawn=[15], seen=44))["policy"] == 0


def test_the_relevance_pass_keeps_what_was_told():
    """Within 15 %, masks and attention matrices left out, which the test above counts."""
    model = tiny_llava_model(hidden_size=64, intermediate_size=192)
    plugin = reference_plugin("rcp", model, repair=())
    inputs = tiny_inputs(questions=(40, 40))
    batch, length = inputs["input_ids"].shape
    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        keys = tensor.shape[-2:] == (16, length)
        matrix = tensor.shape[-1:] in ((length,), (120,))
        if pointer not in frozen and (keys or not matrix):
            saved[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with rcp.attach(model, plugin, "record") as handle:
            with handle.trace(biases=range(6)) as trace:
                logits = model(**inputs, use_cache=False).logits
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    facts = decoder_sizes(backbone_for(model))
    assert measured == pytest.approx(batch * length * 6 * kept_per_row(facts, 4), rel=0.15)
    assert relevance(trace, logits[:, -1].sum()).any()


@pytest.fixture
def config(base_folder: Path, tmp_path: Path) -> Path:
    plugin = {"stages": [{"layer": 1, "ratio": 0.5, "arguments": {"inner": 8}}],
              "repair": {"layers": [3], "arguments": {"inner": 8, "side": 4, "channels": 4}}}
    model = {"base": str(base_folder), "plugin": plugin}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": model, "data": {"train": "no", "val": "no"}}))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], ["end to end", "(images 2 KiB, answers "]),
        (["--model.guide", "online"], ["guide beside", "answers", "relevance 128 B"]),
        (["--model.guide", "{share: 1.0}"], ["guide alone", "(images 2 KiB, relevance 128 B)"]),
        (["--model.guide", "{layer: 2, share: 0.5}"], ["guide alone", "to the guide layer", "end"]),
        (["--model.loss.repair", "0"], ["(student forward and backward)", "(images 2 KiB)"]),
        (["--model.guide", "online", "--model.plugin.repair", "null"], ["guide alone"]),
        (["--model.guide", "online", "--model.cache_images", "false"], ["KiB (answers"]),
        (["--model.guide", "{share: 0.5}", "--model.policy", "{share: 0.2, group: 6}"],
         ["guide alone", "by draws", "6 forwards", "end to end"]),
        (["--model.guide", "{share: 0.5}", "--model.policy", "{share: 0.5}"],
         ["by draws", "(images 2 KiB, relevance 128 B)"]),
        (["--samples", "3000", "--model.teacher_cache", "c"], ["of 3000 samples", "read in every"]),
    ],
)
def test_phases_and_cache_are_those_of_the_configuration(
    changes: list[str], told: list[str], config: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["estimate", "--config", str(config), *changes]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith(("Training", "Teacher"))]
    assert all(any(part in line for line in lines) for part in told), lines


def test_draws_that_cannot_be_are_not_planned(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    policy = ["--model.policy", "{share: 0.7}"]
    for guide, told in (("null", "untaught"), ("{share: 0.5}", "guide leaves 0.5")):
        assert main(["estimate", "--config", str(config), "--model.guide", guide, *policy]) == 2
        assert told in " ".join(capsys.readouterr().err.split())


def test_a_relevance_label_needs_memory_in_the_plan(
    config: Path, capsys: pytest.CaptureFixture[str]
):
    said = []
    for guide in ("null", "online", "{layer: 3, share: 1.0}"):
        main(["estimate", "--config", str(config), "--model.guide", guide, "--text-tokens", "500"])
        said.append("relevance: " in capsys.readouterr().out)
    assert said == [False, True, False]
