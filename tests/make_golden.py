"""Write a golden folder: ``python -m tests.make_golden NAME``; an existing one is never replaced.

A golden folder is an exported plug-in with the logits and tokens it gave on the day it was made.
The file of inputs, and of what the base was, is one for all of them.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rcp
from rcp import LoraSpec, PluginSpec, RepairSpec, StageSpec
from tests.tiny import randomised, tiny_inputs, tiny_llava_model

GOLDEN = Path(__file__).parent / "golden"
INPUTS = GOLDEN / "inputs.safetensors"
RCP = {"inner": 8, "queries": 2, "heads": 2}
FILM = {"inner": 8, "side": 3, "channels": 4}


def learned(layers: tuple[int, ...], ratios: tuple[float, ...]) -> list[StageSpec]:
    """RCP's stages, as narrow as they can be."""
    return [StageSpec(at, ratio, "rcp", RCP) for at, ratio in zip(layers, ratios)]


SPECS = {
    "rcp_repair": PluginSpec(
        learned((0, 2, 4), (0.75, 0.4, 0.15)), RepairSpec([1, 2, 5], "film", FILM)
    ),
    "rcp_threshold": PluginSpec(learned((1, 3), (0.5, 0.2)), selection="threshold"),
    "covipal_repacked": PluginSpec(
        [
            StageSpec(0, 0.5, "covipal", {"inner": 8, "blocks": 1, "heads": 2}),
            *learned((3,), (0.2,)),
        ],
        position_policy="repack",
    ),
    "lora_text_repair": PluginSpec(
        learned((1, 4), (0.5, 0.2)),
        RepairSpec([3, 5], "film", FILM, rows="text"),
        lora=LoraSpec(rank=2, targets=["q_proj", "down_proj"], layers=[0, 4]),
    ),
    "merging": PluginSpec(
        [
            StageSpec(0, 0.75, "visiondrop_encoder", {"contextual": 0.25}),
            StageSpec(2, 0.5, "sparsevlm"),
            StageSpec(4, 0.25, "visiondrop_decoder", {"contextual": 0.5}),
        ]
    ),
}

SEEDS = {"rcp_threshold": 19}
"""Of the random weights, where those of the usual seed would drop all or nothing."""


def base_marks(model: nn.Module) -> Tensor:
    """(P, 2) fp64 sum and norm of each parameter: other generators give other weights."""
    values = [parameter.detach().double() for parameter in model.parameters()]
    return torch.stack([torch.stack([value.sum(), value.norm()]) for value in values])


@torch.no_grad()
def answers(model: nn.Module, plugin: rcp.Plugin, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """``logits`` (B, V) behind the prompt and the ``tokens`` (B, 4) generated greedily."""
    with rcp.attach(model, plugin):
        logits = model(**inputs).logits[:, -1]
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, -4:]
    return {"logits": logits.contiguous(), "tokens": tokens.contiguous()}


def golden_inputs() -> dict[str, Tensor]:
    """The stored inputs, two rows of one image each."""
    return {name: value for name, value in load_file(INPUTS).items() if name != "base"}


def main(name: str) -> None:
    folder, model = GOLDEN / name, tiny_llava_model()
    if not INPUTS.exists():
        save_file(tiny_inputs() | {"base": base_marks(model)}, INPUTS)
    plugin = randomised(rcp.Plugin.for_model(SPECS[name], model), SEEDS.get(name, 3))
    inputs = golden_inputs()
    expected = answers(model, plugin, inputs)
    # a choice or a token on the edge would not be the same on another machine
    inputs["pixel_values"] = inputs["pixel_values"].double()
    wider = answers(model.double(), plugin, inputs)
    torch.testing.assert_close(wider["logits"].float(), expected["logits"], rtol=1e-5, atol=1e-5)
    assert torch.equal(wider["tokens"], expected["tokens"])
    rcp.save_plugin(plugin.float(), folder)  # refuses a folder that is there
    save_file(expected, folder / "expected.safetensors")
    for file in (INPUTS, *folder.rglob("*")):
        file.chmod(0o755 if file.is_dir() else 0o644)


if __name__ == "__main__":
    main(sys.argv[1])
