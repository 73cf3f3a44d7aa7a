"""Are served answers those of transformers, case by case?"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving.cases import Request, cases, questions
from benchmarks.serving.engine import Engine
from benchmarks.serving.padded import padded, padded_plugin
from benchmarks.serving.random_bases import FAMILIES, framed, random_questions, written
from benchmarks.serving.reference import Reference
from rcp import Plugin, PluginSpec, StageSpec, save_plugin
from rcp.base_model.loading import pretrained
from rcp.plugin import LoraSpec
from rcp.serving.vllm.settings import Settings

BASE = Path("data/tiny-vlm")
LENGTH = 6
"""Tokens of an answer, at most."""

RATIO = 0.125
Cases = list[tuple[str, list[Request]]]

OF_FAMILIES = "question_attention"
"""The method by which tiny random models are pruned."""

OTHERWISE: dict[str, dict[str, Any]] = {
    "compiled": {"enforce_eager": False},
    "evicting": {"num_gpu_blocks_override": 12, "block_size": 32, "max_model_len": 320},
}
"""Parts by how the engine is started otherwise: one compiles the decoder, one has a cache too small
for the requests under way, which it interrupts and fills in anew."""

ADAPTERS = "adapters"
"""The part whose plug-in has low-rank adapters, drawn at random: they change most answers."""


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """By case: how many of the requests have the same answer, token for token."""
    torch.set_num_threads(1)
    if options.part in FAMILIES:
        planned, engine, reference = _of_family(options.part, options.questions)
    else:
        planned, engine, reference = _of_embedded(options)
    rows = []
    for name, requests in planned:
        served = engine.answers(requests, LENGTH)
        same = [
            answer == reference.answer(request, LENGTH)
            for request, answer in zip(requests, served)
        ]
        rows.append({"case": name, "same": sum(same), "of": len(same)})
        print(options.part, rows[-1], flush=True)
    return rows


def _of_embedded(options: argparse.Namespace) -> tuple[Cases, Engine, Reference]:
    model, processor = pretrained(str(BASE), dtype=torch.float32)
    settings = settings_of(options.part, options.plugin, model)
    entry = settings.entry()
    known = questions(options.data, options.questions)
    budgets = [36, 0.5] if next(entry.parameters(), None) is None else []
    base = padded(BASE, Path("runs/serving/base"))
    engine = Engine(base, _served(settings, model), **OTHERWISE.get(options.part, {}))
    return list(cases(known, budgets)), engine, Reference(model.eval(), processor, entry)


def _of_family(family: str, count: int) -> tuple[Cases, Engine, Reference]:
    """A tiny random model, pruned by a method that reads the question.

    Several images of a prompt LLaVA-OneVision tiles in vLLM, and not in transformers.
    """
    folder = Path("runs/serving") / family
    base = written(family, folder / "base")
    model, processor = pretrained(str(base), dtype=torch.float32)
    plugin = folder / OF_FAMILIES
    if not plugin.exists():
        save_plugin(_plain(OF_FAMILIES, model), plugin)
    settings = Settings(str(plugin.absolute()))
    known = random_questions(folder / "images", count)
    planned = [(name, [framed(request) for request in requests])
               for name, requests in cases(known, [4, 0.5])
               if family != "llava_onevision" or len(requests[0].images) < 2]
    engine = Engine(base, settings, type(model).__name__)
    return planned, engine, Reference(model.eval(), processor, settings.entry())


def _served(settings: Settings, model: Any) -> Settings:
    """The same for the padded base."""
    if settings.entry().lora is None:
        return settings
    width = model.config.get_text_config().head_dim
    other = padded_plugin(Path(settings.plugin), width, Path("runs/serving/adapters_padded"))
    return Settings(str(other.absolute()))


def settings_of(part: str, trained: Path, model: Any) -> Settings:
    """The plug-in folder that a part serves; a method without training gets one."""
    if part == "trained":
        return Settings(str(trained.absolute()), entry_only=True)
    folder = Path("runs/serving") / part
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        method = "question_attention" if part in OTHERWISE else part
        save_plugin(_adapted(model) if part == ADAPTERS else _plain(method, model), folder)
    return Settings(str(folder.absolute()))


def _plain(method: str, model: Any) -> Plugin:
    return Plugin.for_model(PluginSpec([StageSpec(0, RATIO, method)]), model)


def _adapted(model: Any) -> Plugin:
    lora = LoraSpec(targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    stage = StageSpec(0, RATIO, "question_attention")
    plugin = Plugin.for_model(PluginSpec([stage], lora=lora), model)
    generator = torch.Generator().manual_seed(0)
    for name, weight in plugin.lora.named_parameters():  # type: ignore[union-attr]
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return plugin
