"""vLLM itself against transformers with the same plug-in attached; runs by `make test-serving`."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")

from benchmarks.serving.cases import Question, asked, cases, questions  # noqa: E402
from benchmarks.serving.engine import Engine, prompt_of  # noqa: E402
from benchmarks.serving.padded import padded  # noqa: E402
from benchmarks.serving.random_bases import FAMILIES  # noqa: E402
from benchmarks.serving.reference import Reference  # noqa: E402
from data.generate import generate  # noqa: E402
from rcp import Plugin, PluginSpec, StageSpec, save_plugin  # noqa: E402
from rcp.base_model.loading import pretrained  # noqa: E402
from rcp.serving.vllm.request import KEY  # noqa: E402
from rcp.serving.vllm.settings import Settings  # noqa: E402

pytestmark = pytest.mark.slow

BASE = Path("data/tiny-vlm")
LENGTH = 4


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> list[Question]:
    folder = tmp_path_factory.mktemp("made") / "test"
    generate(folder, "test", 12, 0, 4)
    return questions(folder, 48)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The engine and transformers, with a method that reads the question."""
    folder = tmp_path_factory.mktemp("served")
    model, processor = pretrained(str(BASE), dtype=torch.float32)
    spec = PluginSpec([StageSpec(0, 0.06, "question_attention")])
    save_plugin(Plugin.for_model(spec, model), folder / "plugin")
    settings = Settings(str(folder / "plugin"))
    reference = Reference(model.eval(), processor, settings.entry())
    return Engine(padded(BASE, folder / "base"), settings), reference


def test_answers_are_those_of_transformers_in_all_cases(both, known):
    engine, reference = both
    for name, requests in cases(known, [36, 0.5]):
        requests = requests[:12]
        wanted = [reference.answer(request, LENGTH) for request in requests]
        assert engine.answers(requests, LENGTH) == wanted, name


def test_without_the_question_in_the_key_answers_are_other_questions_answers(
    both, known, monkeypatch
):
    """The trap itself: the mechanism is what keeps the case above right, not luck."""
    from vllm.multimodal.processing.inputs import ProcessorInputs

    hashes = ProcessorInputs.get_mm_hashes

    def without_question(self, *arguments):
        known_as = dict(self.hf_processor_mm_kwargs)
        known_as[KEY] = known_as[KEY] | {"prompt": []}
        return hashes(replace(self, hf_processor_mm_kwargs=known_as), *arguments)

    monkeypatch.setattr(ProcessorInputs, "get_mm_hashes", without_question)
    engine, reference = both
    requests = [asked(q, images=(known[-1].image,), budget=10) for q in known]
    wanted = [reference.answer(request, LENGTH) for request in requests]
    assert engine.answers(requests, LENGTH) != wanted


def test_an_aborted_request_leaves_no_trace(both, known):
    """Neither while its prompt is filled, with an image half in the decoder, nor while it answers;
    64 others are on their way."""
    from vllm import SamplingParams

    engine, reference = both
    inner = engine.model.llm_engine
    for steps in (1, 2, 4):
        for number in range(4):
            request = asked(known[number], budget=36)
            inner.add_request(f"gone {number}", prompt_of(request), SamplingParams(max_tokens=30))
        for _ in range(steps):
            inner.step()
        inner.abort_request([f"gone {number}" for number in range(4)])
    budgets = (36, None, "all", 0.5)
    requests = [asked(known[n % len(known)], budget=budgets[n % 4]) for n in range(64)]
    wanted = [reference.answer(request, LENGTH) for request in requests]
    assert engine.answers(requests, LENGTH) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_a_family_are_those_of_transformers(family, tmp_path):
    """In a process of its own, as an engine wants it."""
    output = tmp_path / "served.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--parts", family, "--questions", "15",
         "--output", str(output)],
        check=True,
    )
    rows = json.loads(output.read_text())[family]
    assert len(rows) >= 9 and all(row["same"] == row["of"] > 0 for row in rows), rows


@pytest.mark.parametrize("budget", [0, 145, 1.5, "none", True])
def test_a_budget_that_cannot_be_is_the_requests_fault(both, known, budget):
    engine, _ = both
    with pytest.raises(ValueError, match="visual_budget is|budget of 145"):
        engine.answers([asked(known[0], budget=budget)], LENGTH)
    assert engine.answers([asked(known[0])], LENGTH)  # and the engine goes on


def test_ready_made_embeddings_are_refused(both):
    engine, _ = both
    prompt = {"prompt": "USER: <image>\nwhat? ASSISTANT:",
              "multi_modal_data": {"image": torch.zeros(1, 144, 96)}}
    with pytest.raises(ValueError):
        engine.model.generate([prompt], use_tqdm=False)


def test_a_prompt_too_long_for_its_positions_is_refused(both, known):
    engine, _ = both
    eight = replace(asked(known[0]), prompt="<image>" * 8, images=(known[0].image,) * 8)
    with pytest.raises(ValueError, match="Before pruning this prompt has 1153 tokens"):
        engine.answers([eight], LENGTH)


def test_settings_are_plain_values():
    assert asdict(Settings("folder")) == {"plugin": "folder", "entry_only": False, "budget": None}
