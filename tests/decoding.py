"""Two routes to one answer: rows really gone with a cache, and all rows masked without one."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rcp import Plugin, PluginSpec, attach
from tests.families import FAMILIES, Case
from tests.tiny import attention_spec, randomised, rcp_spec

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")

REFERENCES: dict[str, Callable[[], PluginSpec]] = {
    "question_attention": lambda: attention_spec(layers=(0, 3)),
    "rcp": lambda: rcp_spec(layers=(1, 3)),
}
"""The two plug-ins every family is tried with: one drops before the first layer, one repairs."""


@cache
def family(name: str) -> Case:
    """The case ``name``, built once a run, its model frozen as a teacher is."""
    return frozen(FAMILIES[name]())


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
