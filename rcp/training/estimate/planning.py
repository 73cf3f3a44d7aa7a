"""What a configuration will take: the schedule's tokens, FLOPs and KV cache, a step's memory."""

import argparse
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from rcp.backbones import backbone_for
from rcp.base_model.cost import DecoderSizes, kv_bytes, per_layer, prefill_flops
from rcp.base_model.sizes import decoder_sizes
from rcp.choosing.fusing import patches_by_step
from rcp.errors import UserError
from rcp.plugin import Plugin, fitted
from rcp.quoting import plain
from rcp.refusals import refuse_below_one
from rcp.training.estimate.memory import StepSizes, memory
from rcp.training.estimate.teaching import GIGA, Steps, cache_line, kept_bytes
from rcp.training.estimate.tower import tower_lines
from rcp.training.frozen_base import refuse_untrainable_base
from rcp.training.guided import answers_teach
from rcp.training.objective import parts_of_teacher, reads_answers, term_weights
from rcp.training.options import LossOptions, PluginOptions
from rcp.training.phases import GuideOptions, PolicyOptions, guide_options, teacher_alone
from rcp.training.run.cli import read_configuration
from rcp.typed_values import from_plain

GIB = 2**30


@dataclass(frozen=True)
class LayerTokens:
    """Tokens of one sample by layer: of the ``full`` model, at inference, and in training."""

    full: list[int]
    kept: list[int]
    trained: list[int]


def plan(options: argparse.Namespace) -> list[str]:
    """The lines of `python -m rcp estimate`; raises ``UserError`` for what cannot be planned."""
    refuse_below_one(
        options, "visual_tokens", "text_tokens", "answer_tokens", "devices", "samples"
    )
    if options.gpu_memory is not None and not 0 < options.gpu_memory < math.inf:
        raise UserError(f"--gpu-memory is {options.gpu_memory}: give the GPU's GiB, above 0.")
    base = [] if options.base is None else ["--model.base", options.base]
    config = read_configuration(["--config", str(options.config), *options.overrides, *base])
    model, plugin = on_meta(config)
    if (policy := policy_of(config)) is not None:
        policy.check(guide_of(config), config.model.pruners_from is not None, plugin)
    backbone = backbone_for(model)
    facts = decoder_sizes(backbone)
    visual = options.visual_tokens or backbone.visual_tokens
    if visual is None:
        raise UserError(
            "The number of visual tokens of this model varies with the image. Say what to plan "
            "for with --visual-tokens."
        )
    margin = 1.0 if backbone.only_before else config.model.margin  # what it drops is gone at once
    rows = rows_by_layer(plugin, visual, options.text_tokens, margin)
    step = _step(options, config, model, plugin, facts, rows, visual)
    lines = [
        *_costs(facts, rows, plugin, visual, step.value_bytes),
        *tower_lines(backbone, plugin),
        *_teaching(config, plugin, step, rows, visual, options),
    ]
    return [*lines, *_memory_lines(step, _available(options.gpu_memory), config)]


def on_meta(config: Namespace) -> tuple[nn.Module, Plugin]:
    """The frozen model and the plug-in of a configuration, without storage for any weight.

    Raises ``UserError`` for a base whose config.json cannot be read, or that cannot be trained on.
    """
    base, dtype = config.model.base, getattr(torch, config.model.dtype)
    refuse_untrainable_base(base)
    try:
        sizes = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(sizes, dtype=dtype)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"The configuration of the base '{base}' cannot be read "
            f"({plain(error)}). Give a folder with its config.json by --base."
        ) from error
    backbone = backbone_for(model)
    spec = fitted(plugin_options(config).spec_for(backbone), model)
    with torch.device("meta"):
        return model, Plugin(spec, backbone.hidden_size, len(backbone.layers))


def rows_by_layer(plugin: Plugin, visual: int, text: int, margin: float | None) -> LayerTokens:
    """What each decoder layer computes for a sample of ``visual`` and ``text`` tokens."""
    spans, depth = plugin.schedule.spans, plugin.num_layers
    counts = counts_of(plugin, visual)
    near = [visual] * len(counts)
    if margin is not None:
        near = [min(visual, -int(-count * margin // 1)) for count in counts]
    return LayerTokens(
        full=[visual + text] * depth,
        kept=[n + text for n in per_layer(spans, [visual, *counts])],
        trained=[n + text for n in per_layer(spans, [visual, *near])],
    )


def counts_of(plugin: Plugin, visual: int) -> list[int]:
    """What each stage leaves of ``visual`` tokens, those of one image where its tower drops."""
    counts = [plugin.schedule.count(stage, visual) for stage in range(len(plugin.schedule.layers))]
    tower = plugin.spec.tower
    if tower is not None:
        counts[0] = patches_by_step(visual, tower.keep, len(tower.blocks))[-1]
    return counts


def plugin_options(config: Namespace) -> PluginOptions:
    """``model.plugin`` of a configuration that the parser has read."""
    return from_plain(PluginOptions, config.model.plugin.as_dict())


def guide_of(config: Namespace) -> GuideOptions | None:
    """``model.guide`` of a configuration that the parser has read."""
    said = config.model.guide
    if isinstance(said, Namespace):
        return from_plain(GuideOptions, said.as_dict())
    return guide_options(said)


def policy_of(config: Namespace) -> PolicyOptions | None:
    """``model.policy`` of a configuration that the parser has read."""
    said = config.model.policy
    return None if said is None else from_plain(PolicyOptions, said.as_dict())


def _step(
    options: argparse.Namespace,
    config: Namespace,
    model: nn.Module,
    plugin: Plugin,
    facts: DecoderSizes,
    rows: LayerTokens,
    visual: int,
) -> StepSizes:
    strategy = str(config.trainer.strategy)
    half = config.model.dtype == "bfloat16"
    mixed = half or "bf16" in str(config.trainer.precision)
    guide, policy = guide_of(config), policy_of(config)
    relevant = guide is not None and guide.layer is None
    taught = () if guide is None else guide.pruning(plugin.schedule)
    counts = counts_of(plugin, visual)
    return StepSizes(
        facts=facts,
        rows=rows.trained,
        first=_first_trained(plugin, guide, policy, config.model.optimizer.pruners),
        relevant=rows.full[min(taught, default=0) :] if relevant else (),
        masks=not backbone_for(model).only_before,
        answers=options.answer_tokens,
        batch=config.data.batch_size,
        value_bytes=2 if mixed else 4,
        base=sum(parameter.numel() for parameter in model.parameters()),
        base_bytes=2 if half else 4,
        plugin=sum(parameter.numel() for parameter in plugin.parameters()),
        sharded=options.devices if "deepspeed" in strategy else 1,
        base_sharded=options.devices if "stage_3" in strategy else 1,
        zero=0 if "deepspeed" not in strategy else 3 if "stage_3" in strategy else 2,
        checkpointing=config.model.gradient_checkpointing,
        group=0 if policy is None else policy.group,
        present=rows.full[0],
        drawn=rows.kept,
        seen=sum([visual, *counts][: len(counts)]),
    )


def _first_trained(
    plugin: Plugin, guide: GuideOptions | None, policy: PolicyOptions | None, pruners: float
) -> int:
    """The first layer of the student whose output depends on what learns from the answers.

    The number of layers where nothing does.
    """
    found = [0] if plugin.lora is not None else []
    if guide is not None and guide.online:
        alone = guide.share == 1
    else:
        alone = teacher_alone(guide, policy)
    if pruners > 0 and not alone:
        found += plugin.schedule.layers
    elif pruners > 0 and guide is not None and guide.online:
        found += [at for at in plugin.schedule.layers if at not in guide.pruning(plugin.schedule)]
    if plugin.repair is not None and (not alone or guide is not None and guide.online):
        found += plugin.repair.layers
    return min(found, default=plugin.num_layers)


def _teaching(
    config: Namespace,
    plugin: Plugin,
    step: StepSizes,
    rows: LayerTokens,
    visual: int,
    options: argparse.Namespace,
) -> list[str]:
    guide, policy, facts = guide_of(config), policy_of(config), step.facts
    weights = term_weights(from_plain(LossOptions, config.model.loss.as_dict()), plugin)
    taught = () if guide is None else guide.pruning(plugin.schedule)
    steps = Steps(
        facts=facts,
        full=rows.full,
        student=rows.trained,
        first=step.first,
        guide=guide,
        policy=policy,
        drawn=rows.kept,
        answers=reads_answers(weights),
        learns=answers_teach(plugin, taught, config.model.optimizer.pruners),
    )
    kept = kept_bytes(facts, visual, options.answer_tokens, step.value_bytes, step.masks)
    asked = parts_of_teacher(weights, guide, policy)[0 if config.model.cache_images else 1 :]
    parts = {part: size for part, size in kept.items() if part in asked}
    used = config.model.teacher_cache is not None
    return [*steps.lines(), cache_line(parts, options.samples, used)]


def _costs(
    facts: DecoderSizes, rows: LayerTokens, plugin: Plugin, visual: int, value_bytes: int
) -> list[str]:
    full, kept = (prefill_flops(facts, part) for part in (rows.full, rows.kept))
    cache = [sum(kv_bytes(facts, part, value_bytes)) for part in (rows.full, rows.kept)]
    lines = [f"Schedule: {visual} visual tokens, {plugin.mean_ratio * visual:.1f} kept on average "
             f"over {plugin.num_layers} layers ({plugin.mean_ratio:.2%})"]
    for layer, count in zip(plugin.schedule.layers, counts_of(plugin, visual)):
        lines.append(f"  from layer {layer}: {count}")
    return [
        *lines,
        f"Prefill, decoder and head: {kept / GIGA:.4g} of {full / GIGA:.4g} GFLOPs "
        f"({kept / full:.1%})",
        f"KV cache after it: {cache[1] / 2**20:.4g} of {cache[0] / 2**20:.4g} MiB a sample "
        f"({cache[1] / cache[0]:.1%})",
    ]


def _available(given: float | None) -> int | None:
    if given is not None:
        return int(given * GIB)
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory


def _memory_lines(step: StepSizes, available: int | None, config: Namespace) -> list[str]:
    parts = memory(step)
    total = sum(parts.values())
    lines = [f"Memory of one GPU, batch {step.batch}: {total / GIB:.2f} GiB"]
    lines += [f"  {name}: {size / GIB:.2f} GiB" for name, size in parts.items() if size]
    if available is None:
        return [*lines, "Name a GPU's memory with --gpu-memory to learn whether it fits."]
    if total <= available:
        return [*lines, f"It fits into {available / GIB:.1f} GiB."]
    return [*lines, f"It does not fit into {available / GIB:.1f} GiB. What would help:",
            *[f"  {line}" for line in _advice(step, available, config)]]


def _advice(step: StepSizes, available: int, config: Namespace) -> list[str]:
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
    if config.model.margin is None:
        found.append("model.margin 2: rows far below the cut are dropped in training, too")
    if step.base_bytes == 4:
        half = needed(base_bytes=2, value_bytes=2)
        precision = "model.dtype bfloat16 with trainer.precision bf16-mixed"
        found.append(f"{precision}: {half / GIB:.2f} GiB")
    if "stage_3" not in str(config.trainer.strategy):
        over = needed(base_sharded=8, sharded=8, zero=3)
        found.append(
            f"trainer.strategy deepspeed_stage_3, the base spread over 8 GPUs: {over / GIB:.2f} GiB"
        )
    return found
