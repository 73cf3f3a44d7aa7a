"""What a configuration will take: the schedule's tokens, FLOPs and KV cache, a step's memory."""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from rcp.backbones import backbone_for
from rcp.base_model.cost import DecoderFacts, kv_bytes, per_layer, prefill_flops
from rcp.base_model.sizes import decoder_facts
from rcp.errors import UserError
from rcp.plugin import Plugin, fitted
from rcp.refusals import refuse_below_one
from rcp.training.data_module import ConversationDataModule
from rcp.training.estimate.memory import Step, memory
from rcp.training.options import PluginOptions
from rcp.training.plugin_training import PluginTraining
from rcp.training.run.config_files import config_path, only_our_classes
from rcp.typed_values import check_arguments

PARTS = ("model", "data", "trainer")
READ = (("dtype", "margin", "gradient_checkpointing"), ("batch_size",))
"""Fields of the first two parts that are read here, beside the plug-in."""

GIB = 2**30
GIGA = 1e9


@dataclass(frozen=True)
class Rows:
    """Tokens of one sample by layer: of the ``full`` model, at inference, and in training."""

    full: list[int]
    kept: list[int]
    trained: list[int]


def plan(options: argparse.Namespace) -> list[str]:
    """The lines of `python -m rcp plan`; raises ``UserError`` for what cannot be planned."""
    refuse_below_one(options, "visual_tokens", "text_tokens", "answer_tokens", "devices")
    if options.gpu_memory is not None and not 0 < options.gpu_memory < math.inf:
        raise UserError(f"--gpu-memory is {options.gpu_memory}: give the GPU's GiB, above 0.")
    config = read_configuration(options.config)
    model_part, _, trainer = (config.get(part) or {} for part in PARTS)
    model, plugin = on_meta(options.base or model_part.get("base"), model_part)
    facts = decoder_facts(backbone_for(model))
    visual = options.visual_tokens or backbone_for(model).visual_tokens
    if visual is None:
        raise UserError(
            "The number of visual tokens of this model varies with the image. Say what to plan "
            "for with --visual-tokens."
        )
    rows = rows_by_layer(plugin, visual, options.text_tokens, model_part.get("margin"))
    step = _step(options, config, model, plugin, facts, rows)
    lines = _costs(facts, rows, plugin, visual, 2 if step.value_bytes == 2 else 4)
    return [*lines, *_memory_lines(step, _available(options.gpu_memory), model_part, trainer)]


def on_meta(base: Any, model_part: dict[str, Any]) -> tuple[nn.Module, Plugin]:
    """The frozen model and the plug-in of a configuration, without storage for any weight.

    Raises ``UserError`` for a base whose config.json cannot be read.
    """
    dtype = getattr(torch, model_part.get("dtype", "float32"))
    try:
        config = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"The configuration of the base '{base}' cannot be read "
            f"({str(error).splitlines()[0]}). Give a folder with its config.json by --base."
        ) from error
    backbone = backbone_for(model)
    spec = fitted(read_plugin_options(model_part).spec_for(backbone), model)
    with torch.device("meta"):
        return model, Plugin(spec, backbone.hidden_size, len(backbone.layers))


def rows_by_layer(plugin: Plugin, visual: int, text: int, margin: float | None) -> Rows:
    """What each decoder layer computes for a sample of ``visual`` and ``text`` tokens."""
    spans, depth = plugin.schedule.spans, plugin.num_layers
    counts = [plugin.schedule.count(stage, visual) for stage in range(len(spans) - 1)]
    near = [visual] * len(counts)
    if margin is not None:
        near = [min(visual, -int(-count * margin // 1)) for count in counts]
    return Rows(
        full=[visual + text] * depth,
        kept=[n + text for n in per_layer(spans, [visual, *counts])],
        trained=[n + text for n in per_layer(spans, [visual, *near])],
    )


def read_configuration(path: Path) -> dict[str, Any]:
    """The configuration as plain values, nothing of it made; ``UserError`` if it is none."""
    text = config_path(str(path)).read_text()
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date that there is not
        raise UserError(f"'{path}' is no YAML ({' '.join(str(error).split())}).") from error
    parts = [content.get(part) or {} for part in PARTS] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise UserError(
            f"'{path}' holds no configuration of train.py, with the fields of {', '.join(PARTS)}."
        )
    for made, fields, part in zip((PluginTraining, ConversationDataModule), READ, parts):
        check_arguments(made, {name: part[name] for name in fields if name in part})
    return content


def read_plugin_options(model_part: dict[str, Any]) -> PluginOptions:
    """``model.plugin`` of a configuration; raises ``UserError`` for fields that cannot be."""
    only_our_classes()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PluginOptions, "plugin")
    try:
        parsed = parser.parse_object({"plugin": model_part.get("plugin") or {}})
        return parser.instantiate(parsed).plugin
    except (ArgumentError, ImportError, TypeError) as error:
        raise UserError(f"model.plugin is not right: {' '.join(str(error).split())}") from error


def _step(
    options: argparse.Namespace,
    config: dict[str, Any],
    model: nn.Module,
    plugin: Plugin,
    facts: DecoderFacts,
    rows: Rows,
) -> Step:
    model_part, trainer = config.get("model") or {}, config.get("trainer") or {}
    strategy = str(trainer.get("strategy", "auto"))
    mixed = "bf16" in str(trainer.get("precision", "")) or model_part.get("dtype") == "bfloat16"
    adapted = plugin.lora is not None
    stages = plugin.schedule.layers
    return Step(
        facts=facts,
        rows=rows.trained,
        first=0 if adapted else min(stages, default=plugin.num_layers),
        answers=options.answer_tokens,
        batch=int((config.get("data") or {}).get("batch_size", 32)),
        value_bytes=2 if mixed else 4,
        base=sum(parameter.numel() for parameter in model.parameters()),
        base_bytes=2 if model_part.get("dtype") == "bfloat16" else 4,
        plugin=sum(parameter.numel() for parameter in plugin.parameters()),
        sharded=options.devices if "deepspeed" in strategy else 1,
        base_sharded=options.devices if "stage_3" in strategy else 1,
        zero=0 if "deepspeed" not in strategy else 3 if "stage_3" in strategy else 2,
        checkpointing=bool(model_part.get("gradient_checkpointing")),
    )


def _costs(
    facts: DecoderFacts, rows: Rows, plugin: Plugin, visual: int, value_bytes: int
) -> list[str]:
    full, kept = (prefill_flops(facts, part) for part in (rows.full, rows.kept))
    cache = [sum(kv_bytes(facts, part, value_bytes)) for part in (rows.full, rows.kept)]
    trained = prefill_flops(facts, rows.trained)
    lines = [f"Schedule: {visual} visual tokens, {plugin.mean_ratio * visual:.1f} kept on average "
             f"over {plugin.num_layers} layers ({plugin.mean_ratio:.2%})"]
    for stage, layer in enumerate(plugin.schedule.layers):
        lines.append(f"  from layer {layer}: {plugin.schedule.count(stage, visual)}")
    return [
        *lines,
        f"Prefill, decoder and head: {kept / GIGA:.4g} of {full / GIGA:.4g} GFLOPs "
        f"({kept / full:.1%})",
        f"KV cache after it: {cache[1] / 2**20:.4g} of {cache[0] / 2**20:.4g} MiB a sample "
        f"({cache[1] / cache[0]:.1%})",
        f"Training, a sample: {(full + 2 * trained) / GIGA:.4g} GFLOPs (teacher forward, student "
        "forward and backward; frozen weights have no gradient)",
    ]


def _available(given: float | None) -> int | None:
    if given is not None:
        return int(given * GIB)
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory


def _memory_lines(
    step: Step, available: int | None, model_part: dict[str, Any], trainer: dict[str, Any]
) -> list[str]:
    parts = memory(step)
    total = sum(parts.values())
    lines = [f"Memory of one GPU, batch {step.batch}: {total / GIB:.2f} GiB"]
    lines += [f"  {name}: {size / GIB:.2f} GiB" for name, size in parts.items() if size]
    if available is None:
        return [*lines, "Name a GPU's memory with --gpu-memory to learn whether it fits."]
    if total <= available:
        return [*lines, f"It fits into {available / GIB:.1f} GiB."]
    return [*lines, f"It does not fit into {available / GIB:.1f} GiB. What would help:",
            *[f"  {line}" for line in _advice(step, available, model_part, trainer)]]


def _advice(
    step: Step, available: int, model_part: dict[str, Any], trainer: dict[str, Any]
) -> list[str]:
    """Changes of the configuration, each with what would then be needed."""

    def needed(**changes: Any) -> int:
        return sum(memory(replace(step, **changes)).values())

    fixed = needed(batch=0)
    largest = int((available - fixed) // max(1, needed(batch=1) - fixed))
    found = []
    if largest >= 1:
        found.append(
            f"data.batch_size {largest}, with more trainer.accumulate_grad_batches: "
            f"{needed(batch=largest) / GIB:.2f} GiB"
        )
    if not step.checkpointing:
        found.append(
            f"model.gradient_checkpointing true: {needed(checkpointing=True) / GIB:.2f} GiB"
        )
    if model_part.get("margin") is None:
        found.append("model.margin 2: rows far below the cut are dropped in training, too")
    if step.base_bytes == 4:
        half = needed(base_bytes=2, value_bytes=2)
        precision = "model.dtype bfloat16 with trainer.precision bf16-mixed"
        found.append(f"{precision}: {half / GIB:.2f} GiB")
    if "stage_3" not in str(trainer.get("strategy")):
        over = needed(base_sharded=8, sharded=8, zero=3)
        found.append(
            f"trainer.strategy deepspeed_stage_3, the base spread over 8 GPUs: {over / GIB:.2f} GiB"
        )
    return found
