"""A base with wider heads and the same outputs: vLLM's attention on CPUs knows few widths.

A plug-in's low-rank adapters are widened as the matrices are that they are added to.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rcp.folder.read_write import load_plugin, save_plugin
from rcp.plugin import Plugin

WIDTH = 32
"""The narrowest head that is known."""


def padded(base: Path, folder: Path) -> Path:
    """``folder`` with the model in ``base``, the heads of its decoder padded by zeros.

    Queries grow by what the wider head divides them by, and the rotary embedding turns the part
    that was there: exact. A base whose heads are wide enough is copied.
    """
    if folder.is_dir():
        return folder
    shutil.copytree(base, folder)
    config = json.loads((base / "config.json").read_text())
    text = config["text_config"]
    width = text["head_dim"]
    if width >= WIDTH:
        return folder
    text["head_dim"] = WIDTH
    text["rope_parameters"]["partial_rotary_factor"] = width / WIDTH
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights = load_file(str(base / "model.safetensors"))
    made = {name: _padded(name, weight, width) for name, weight in weights.items()}
    save_file(made, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def padded_plugin(folder: Path, width: int, other: Path) -> Path:
    """``other`` with the plug-in in ``folder``, its adapters those of heads of :data:`WIDTH`.

    Heads were ``width`` wide.
    """
    if other.is_dir():
        return other
    plugin = load_plugin(folder)
    assert plugin.spec.lora is not None and plugin.lora is not None
    weights = {
        name: _adapter(name, weight, width) for name, weight in plugin.lora.state_dict().items()
    }
    modules = {}
    for name in plugin.spec.lora.modules:
        pair = f"pairs.{name.replace('.', '/')}"
        down, up = (weights[f"{pair}.{linear}.weight"] for linear in ("down", "up"))
        modules[name] = [down.shape[1], up.shape[0]]
    lora = replace(plugin.spec.lora, modules=modules)
    made = Plugin(replace(plugin.spec, lora=lora), plugin.hidden_size, plugin.num_layers)
    own = {name: weight for name, weight in plugin.state_dict().items()
           if not name.startswith("lora.")}
    made.load_state_dict(own | {f"lora.{name}": weight for name, weight in weights.items()})
    made.base = plugin.base
    save_plugin(made, other)
    return other


def _adapter(name: str, weight: Tensor, width: int) -> Tensor:
    """``up`` gives what is added to queries, keys and values, ``down`` reads what they gave."""
    module, linear, _ = name.rsplit(".", 2)
    which = module.rsplit("/", 1)[-1]
    if which == "o_proj":
        return _wider(weight.mT, width).mT.contiguous() if linear == "down" else weight
    if which not in ("q_proj", "k_proj", "v_proj") or linear == "down":
        return weight
    wider = _wider(weight, width)
    return wider * (WIDTH / width) ** 0.5 if which == "q_proj" else wider


def _padded(name: str, weight: Tensor, width: int) -> Tensor:
    parts = name.split(".")
    if "language_model" not in parts or "self_attn" not in parts:
        return weight
    which: Any = parts[-2]
    if which == "o_proj":
        return _wider(weight.mT, width).mT.contiguous()
    wider = _wider(weight.float(), width)
    return (wider * (WIDTH / width) ** 0.5 if which == "q_proj" else wider).to(torch.float32)


def _wider(rows: Tensor, width: int) -> Tensor:
    """Every ``width`` of the ``rows`` followed by zeros up to :data:`WIDTH`."""
    heads = rows.unflatten(0, (-1, width))
    zeros = heads.new_zeros(len(heads), WIDTH - width, *heads.shape[2:])
    return torch.cat([heads, zeros], dim=1).flatten(0, 1)
