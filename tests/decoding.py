"""Two routes to one answer: rows really gone with a cache, and all rows masked without one."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rcp import Plugin, PluginSpec, attach
from tests.families import ENTRY_FAMILIES, FAMILIES, Case, Sample
from tests.tiny import attention_spec, randomised, rcp_spec

TOLERANCE = 1e-5
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")

REFERENCES: dict[str, Callable[[], PluginSpec]] = {
    "question_attention": lambda: attention_spec(layers=(0, 3)),
    "rcp": lambda: rcp_spec(layers=(1, 3)),
}
"""The two plug-ins every family is tried with: one drops before the first layer, one repairs."""


@cache
def family(name: str) -> Case:
    """The case ``name``, built once a run, its model frozen as a teacher is."""
    return frozen((FAMILIES | ENTRY_FAMILIES)[name]())


def frozen(case: Case) -> Case:
    case.model.requires_grad_(False)
    return case


def plugin_for(case: Case, spec: PluginSpec) -> Plugin:
    return randomised(Plugin.for_model(spec, case.model))


def prompt_ends(inputs: dict[str, Tensor]) -> Tensor:
    """(B,) the column after the last prompt token, on either padding side."""
    mask = inputs["attention_mask"]
    return mask.shape[1] - mask.flip(1).argmax(1)


@torch.no_grad()
def logits(case: Case, plugin: Plugin, mode: str, inputs: dict[str, Tensor], **options: Any) -> Any:
    """Logits of one forward (B, T, V)."""
    with attach(case.model, plugin, mode, **options) as handle, handle.prompt(prompt_ends(inputs)):
        return case.model(**inputs).logits


def generated(case: Case, inputs: dict[str, Tensor], steps: int = 4, **options: Any) -> Any:
    """``generate`` with what a random model needs: no image tokens, no early end."""
    settings: dict[str, Any] = {
        "max_new_tokens": steps,
        "min_new_tokens": steps,
        "suppress_tokens": list(case.never),
        "eos_token_id": None,
        "pad_token_id": 0,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    return case.model.generate(**inputs, **(settings | options))


def dropped(case: Case, plugin: Plugin, inputs: dict[str, Tensor], **options: Any) -> Any:
    """``generate`` with the tokens gone."""
    with attach(case.model, plugin, "drop"):
        return generated(case, inputs, **options)


def masked(case: Case, plugin: Plugin, inputs: dict[str, Tensor], **options: Any) -> Any:
    """``generate`` by the masked model, which sees the whole sequence at each step."""
    with attach(case.model, plugin, "soft") as handle, handle.prompt(inputs["input_ids"].shape[1]):
        return generated(case, inputs, use_cache=False, **options)


def error(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


def steps_of(case: Any, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits (steps, B, V) of the masked model for given generated ``tokens`` (B, steps)."""
    inputs, rows = dict(inputs), []
    kind = 1 if case.model.config.model_type == "paligemma" else 0
    for step in range(tokens.shape[1]):
        rows.append(case.model(**inputs, use_cache=False).logits[:, -1])
        token = tokens[:, step : step + 1]
        added = {"input_ids": token, "attention_mask": torch.ones_like(token)}
        added |= {name: torch.full_like(token, kind) for name in TOKEN_TYPES if name in inputs}
        inputs |= {
            name: torch.cat([inputs[name], value.to(inputs[name])], 1)
            for name, value in added.items()
        }
    return torch.stack(rows)


def assert_decodes_as_masked(
    name: str, spec: PluginSpec, samples: tuple[Sample, ...], **options: Any
) -> None:
    """The logits and tokens of ``generate`` with the tokens gone are the masked model's."""
    case = family(name)
    plugin = plugin_for(case, spec)
    inputs = case.inputs(samples)
    length = inputs["input_ids"].shape[1]
    output = dropped(case, plugin, inputs, steps=3, **options)
    tokens = output.sequences[:, length:]
    with attach(case.model, plugin, "soft") as handle, handle.prompt(length), torch.no_grad():
        expected = steps_of(case, inputs, tokens)
    assert error(torch.stack(output.logits), expected) < TOLERANCE
    expected[..., list(case.never)] = -torch.inf
    assert torch.equal(tokens, expected.argmax(-1).T)
