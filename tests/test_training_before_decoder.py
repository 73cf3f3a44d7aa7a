"""Training on families that lose tokens before their decoder alone: a guide teaches the pruner by
gradients of embeddings, adapters learn behind it, and nothing is masked."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import evaluate
import export
import rcp
import train
from rcp.__main__ import main as command
from rcp.attaching.attach import attach
from rcp.attaching.trace import Trace
from rcp.backbones import backbone_for
from rcp.base_model.cost import prefill_flops
from rcp.base_model.sizes import decoder_sizes
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.objectives.losses import task_loss
from rcp.objectives.relevance import entry_relevance
from rcp.training.guided import guide_term
from rcp.training.objective import answer_logits
from rcp.training.phases import GuideOptions
from rcp.training.teacher.passes import relevant
from tests.cli import FILM, settings
from tests.decoding import family, plugin_for
from tests.drawn_processor import DrawnProcessor
from tests.families import ENTRY_FAMILIES, FAMILIES, Case
from tests.tiny_base import conversation, write_conversations

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
OF_ALL = pytest.mark.parametrize("name", ENTRY_FAMILIES)
COVIPAL = {"method": "covipal", "arguments": {"inner": 8, "heads": 2}}
STAGE = {"layer": 0, "ratio": 0.4, **COVIPAL}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a base of a tiny model: its configuration, and what loading it gives."""

    def make(case: Case) -> Path:
        case.model.config.save_pretrained(tmp_path / "base")
        found = case.model, DrawnProcessor.of(case)
        monkeypatch.setattr("rcp.base_model.loading.pretrained", lambda *_, **__: found)
        return tmp_path / "base"

    return make


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    rows = [conversation(n) for n in range(8)]
    return write_conversations(tmp_path / "data" / "all.json", rows)


def configuration(base: Path, conversations: Path, folder: Path, **model: Any) -> list[str]:
    values = settings(base, conversations, folder)
    values["model"] |= {"plugin": {"stages": [STAGE]}, **model}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return ["--config", str(folder / "config.yaml")]


def linear_of(model: Any) -> str:
    """A linear module that every layer of the decoder has."""
    layers = backbone_for(model).layers
    names = [
        {name.split(".")[-1] for name, one in layer.named_modules() if hasattr(one, "in_features")}
        for layer in layers
    ]
    return sorted(set.intersection(*names))[0]


@OF_ALL
def test_it_trains_exports_loads_and_is_evaluated(name, base, conversations, tmp_path):
    """A guide for half of four steps, then low-rank adapters behind the shorter prompt."""
    case = family(name)
    plugin = {"stages": [STAGE], "lora": {"rank": 2, "targets": [linear_of(case.model)]}}
    arguments = configuration(
        base(case),
        conversations,
        tmp_path,
        plugin=plugin,
        guide={"share": 0.5},
        optimizer={"pruners": 0.0, "learning_rate": 0.01},
        loss={"distillation": 1.0},
        teacher_cache=str(tmp_path / "cache"),
    )
    assert train.main([*arguments, "--trainer.max_steps", "4"]) == 0
    checkpoint, exported = tmp_path / "run" / "last.ckpt", tmp_path / "plugin"
    assert export.main(["--checkpoint", str(checkpoint), "--output", str(exported)]) == 0
    trained = rcp.load_plugin(exported)
    assert trained.training_summary["steps"] == 4
    assert all(pair.up.weight.abs().max() > 0 for pair in trained.lora.pairs.values())
    rows = tmp_path / "rows.json"
    asked = ["--plugin", str(exported), "--data", str(conversations), "--output", str(rows)]
    assert evaluate.main([*asked, "--limit", "2", "--max-new-tokens", "2", "--no-controls"]) == 0
    full, pruned = json.loads(rows.read_text())[:2]
    assert 0 < pruned["flops"] < full["flops"] and 0 < pruned["kv_bytes"] < full["kv_bytes"]


@OF_ALL
def test_relevance_is_of_the_images_alone_finite_and_not_zero(name, base, conversations, tmp_path):
    case = family(name)
    batch = batch_of(case, conversations)
    plugin = plugin_for(case, rcp.PluginSpec([rcp.StageSpec(0, 0.4, **COVIPAL)]))
    lesson = relevant(case.model, plugin, batch, views=[0], answers=())
    valid = lesson.trace.visual_valid
    assert lesson.relevance.shape == (len(valid), 1, valid.shape[1])
    assert lesson.relevance.isfinite().all() and (lesson.relevance >= 0).all()
    assert (lesson.relevance[:, 0] > 0)[valid].float().mean() > 0.9
    plain, _ = answer_logits(case.model, batch)
    torch.testing.assert_close(lesson.answers[0], plain, atol=0, rtol=0)
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert lesson.trace.entered is None, "the graph is let go"
    term = guide_term(plugin, GuideOptions(share=1.0), [0], lesson, None)
    found = torch.autograd.grad(term, list(plugin.parameters()), allow_unused=True)
    assert term > 0 and any(one is not None and one.abs().max() > 0 for one in found)


@OF_ALL
def test_what_is_seen_in_training_is_what_a_stage_chooses_from(name, base, conversations, tmp_path):
    """The view of a guided step keeps the same tokens as the stage does in generation."""
    case = family(name)
    batch = batch_of(case, conversations)
    plugin = plugin_for(case, rcp.PluginSpec([rcp.StageSpec(0, 0.4, **COVIPAL)])).eval()
    view = relevant(case.model, plugin, batch, views=[0]).trace.views[0]
    counts = torch.tensor([plugin.schedule.count(0, n) for n in view.alive.sum(1).tolist()])
    keep = plugin.pruner(0).select(view, counts)
    with torch.no_grad(), attach(case.model, plugin, "drop") as handle, handle.trace() as trace:
        answer_logits(case.model, batch)
    kept = trace.plan.alive[0].gather(1, trace_columns(case, batch))
    assert torch.equal(keep, kept & view.alive)


@OF_ALL
def test_the_student_answers_from_the_shorter_prompt(name, base, conversations, tmp_path):
    """In training, too, with a gradient for what stands behind the stage."""
    case = family(name)
    batch = batch_of(case, conversations)
    spec = rcp.PluginSpec(
        [rcp.StageSpec(0, 0.4, **COVIPAL)], lora=rcp.LoraSpec(2, targets=[linear_of(case.model)])
    )
    plugin = rcp.Plugin.for_model(spec, case.model).eval()
    for pair in plugin.lora.pairs.values():
        torch.nn.init.normal_(pair.up.weight, std=0.02)
    with attach(case.model, plugin, "soft"):
        logits, labels = answer_logits(case.model, batch)
    found = torch.autograd.grad(task_loss(logits, labels), list(plugin.lora.parameters()))
    assert all(one.isfinite().all() for one in found) and any(one.any() for one in found)
    with torch.no_grad(), attach(case.model, plugin, "drop"):
        dropped, _ = answer_logits(case.model, batch)
    torch.testing.assert_close(logits, dropped, atol=1e-5, rtol=1e-5)


def batch_of(case: Case, conversations: Path) -> Any:
    dataset = ConversationDataset(conversations)
    collate = ConversationCollator(DrawnProcessor.of(case), 4096)
    return collate([dataset[0], dataset[1]])


def trace_columns(case: Case, batch: Any) -> torch.Tensor:
    """The columns of the visual tokens, (B, N): of samples that have equally many."""
    image = backbone_for(case.model).image_rows(batch["inputs"]["input_ids"], None)
    return image.nonzero()[:, 1].view(len(image), -1)


@pytest.mark.parametrize("name", ["video_llama_3", "qwen2_5_omni_thinker", "minicpmv4_6"])
def test_a_model_that_predicts_after_every_token_is_asked_for_the_last_ones(
    name, base, conversations, tmp_path
):
    case = {**FAMILIES, **ENTRY_FAMILIES}[name]()
    batch = batch_of(case, conversations)
    with torch.no_grad():
        logits, labels = answer_logits(case.model, batch)
        whole = case.model(**batch["inputs"]).logits
    torch.testing.assert_close(logits, whole[:, -labels.shape[1] :], atol=1e-5, rtol=1e-5)
    assert (labels != -100).sum() == 4, "a word and the end, twice"


def test_the_estimate_is_of_a_shorter_prompt(base, conversations, tmp_path, capsys):
    """Training costs the student what inference does; the cost of running states is told."""
    case = family("qwen3_5")
    folder = base(case)
    arguments = configuration(
        folder, conversations, tmp_path, guide={"share": 0.5}, optimizer={"pruners": 0.0},
        plugin={"stages": [STAGE], "lora": {"rank": 2, "targets": ["down_proj"]}},
    )
    asked = ["--visual-tokens", "40", "--text-tokens", "10", "--answer-tokens", "2"]
    assert command(["estimate", *arguments, *asked]) == 0
    told = capsys.readouterr().out
    facts = decoder_sizes(backbone_for(case.model))
    full, kept = prefill_flops(facts, [50] * 6), prefill_flops(facts, [26] * 6)
    assert f"{kept / 1e9:.4g} of {full / 1e9:.4g} GFLOPs" in told
    assert f"relevance {2 * 40} B" in told, "of each token once, not in every layer"
    assert f"end to end: {2 * kept / 1e9:.4g} GFLOPs (student forward and backward)" in told


def test_the_formula_by_hand():
    """log p = 2a - b + 3c of one token's channels (1, 2, -1): it loses 2 by the first channel; what
    it would gain by the others counts for nothing. The second token only ever helps."""
    weight = torch.tensor([[0.0, 0, 0], [2, -1, 3], [1, 1, 1]])
    embeds = torch.tensor([[[9.0, 9, 9], [1, 2, -1], [0.5, 1, 2]]], requires_grad=True)
    trace = Trace(enters=True, visual_valid=torch.tensor([[True, True]]))
    trace.entered, trace.visual_columns = embeds, torch.tensor([[1, 2]])
    found = entry_relevance(trace, (weight * embeds[0]).sum())
    assert found.tolist() == [[[2.0, 3.5]]]


REFUSED = {
    "repair is not trained on it": {"repair": {"layers": [3], "arguments": FILM}},
    "none can be dropped at layer 2": {"stages": [STAGE, STAGE | {"layer": 2, "ratio": 0.2}]},
    "Use model.plugin.selection: top_k": {"selection": "threshold"},
}
REFUSED_AROUND = {
    "Set model.retention to null": {"retention": {}},
    "Set model.margin to null": {"margin": 2.0},
    "Set model.policy to null": {
        "guide": {"share": 0.5}, "policy": {"share": 0.5}, "optimizer": {"pruners": 0.0}
    },
    "its layer 3 attends to": {"guide": {"layer": 3, "share": 1.0}},
    "Give model.guide, such as": {"guide": None},
    "model.optimizer.pruners is 1 in the steps after model.guide.share = 0.5": {
        "guide": {"share": 0.5}
    },
}


@pytest.mark.parametrize("complaint", [*REFUSED, *REFUSED_AROUND])
def test_what_would_need_masks_is_refused(complaint, base, conversations, tmp_path, capsys):
    model = {"guide": {"share": 1.0}, **REFUSED_AROUND.get(complaint, {})}
    plugin = {"stages": [STAGE], **REFUSED.get(complaint, {})}
    arguments = configuration(
        base(family("lfm2_vl")), conversations, tmp_path, plugin=plugin, **model
    )
    assert train.main(arguments) == 2
    assert complaint in capsys.readouterr().err
