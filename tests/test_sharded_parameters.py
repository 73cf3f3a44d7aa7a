"""Parameters exist in calls of their own module only, as when they are sharded among processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import rcp
from rcp.choosing.relaxation import Relaxation
from rcp.plugin import Plugin
from rcp.pruners import PRUNERS
from rcp.repair import REPAIRS
from tests.tiny import REFERENCE_SPECS, RepairSpec, randomised, reference_plugin, tiny_inputs

LEARNED = [name for name in PRUNERS.names() if PRUNERS.get(name).learned]
BATCHES = {"images": (1, 1), "one row without": (0, 1), "text only": (0, 0)}


@contextmanager
def parameters_on_call_only(root: nn.Module) -> Iterator[set[str]]:
    """Empties each module's own parameters outside its ``__call__``; yields who was called."""
    called: set[str] = set()
    hooks, kept = [], {}
    for name, module in root.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        kept[name] = [(p, p.data) for p in own]

        def fetch(_: nn.Module, __: object, name: str = name) -> None:
            called.add(name)
            for parameter, data in kept[name]:
                parameter.data = data

        def release(_: nn.Module, __: object, ___: object, name: str = name) -> None:
            for parameter, data in kept[name]:
                parameter.data = data.new_empty(0)

        release(module, None, None)
        hooks += [module.register_forward_pre_hook(fetch), module.register_forward_hook(release)]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()
        for pairs in kept.values():
            for parameter, data in pairs:
                parameter.data = data


def with_labels(inputs: dict[str, Tensor], answers: bool) -> dict[str, Tensor]:
    labels = torch.full_like(inputs["input_ids"], -100)
    if answers:
        labels[:, -2:] = inputs["input_ids"][:, -2:]
    return inputs | {"labels": labels}


def soft_logits(model: nn.Module, plugin: Plugin, inputs: dict, margin: float | None) -> Tensor:
    torch.manual_seed(0)
    relaxation = Relaxation(noise=0.5, margin=margin)
    with torch.no_grad(), rcp.attach(model, plugin, "soft", relaxation=relaxation):
        return model(**inputs).logits


@pytest.mark.parametrize("images", BATCHES)
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("margin", [None, 2.0])
def test_training_reaches_every_part_in_its_own_call(
    images: str, answers: bool, margin: float | None, tiny_llava: nn.Module
):
    """Of the plug-in and of the frozen model, and with the same result as whole parameters."""
    plugin = reference_plugin("rcp", tiny_llava)
    inputs = with_labels(tiny_inputs(images=BATCHES[images]), answers)
    expected = soft_logits(tiny_llava, plugin, inputs, margin)
    everything = nn.ModuleList([plugin, tiny_llava])
    with parameters_on_call_only(everything) as called:
        torch.testing.assert_close(soft_logits(tiny_llava, plugin, inputs, margin), expected)
    parts = {name for name, m in plugin.named_modules() if list(m.parameters(recurse=False))}
    assert {f"0.{name}" for name in parts} <= called


@pytest.mark.parametrize("mode", ["record", "drop"])
@pytest.mark.parametrize("spec", REFERENCE_SPECS)
def test_other_modes_too(mode: str, spec: str, tiny_llava: nn.Module):
    plugin = reference_plugin(spec, tiny_llava)
    logits = []
    for swapped in (nn.ModuleList(), nn.ModuleList([plugin, tiny_llava])):
        with parameters_on_call_only(swapped), torch.no_grad():
            with rcp.attach(tiny_llava, plugin, mode):
                logits.append(tiny_llava(**tiny_inputs()).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("images", BATCHES)
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("margin", [None, 2.0])
def test_every_parameter_has_a_gradient_whatever_the_batch_holds(
    method: str, images: str, answers: bool, margin: float | None, tiny_llava: nn.Module
):
    """Zero is a gradient; none at all leaves the other processes waiting."""
    stages = [rcp.StageSpec(1, 0.5, method), rcp.StageSpec(3, 0.2, method)]
    repair = RepairSpec([3, 5], "film", {"inner": 16, "side": 6, "channels": 8})
    plugin = randomised(Plugin.for_model(rcp.PluginSpec(stages, repair), tiny_llava))
    inputs = with_labels(tiny_inputs(images=BATCHES[images]), answers)
    relaxation = Relaxation(noise=0.5, margin=margin)
    with rcp.attach(tiny_llava, plugin, "soft", relaxation=relaxation):
        tiny_llava(**inputs).logits.float().square().mean().backward()
    gradients = {name: p.grad for name, p in plugin.named_parameters()}
    assert not [n for n, g in gradients.items() if g is None or not g.isfinite().all()]
    if images == "text only":
        assert not any(g.any() for g in gradients.values())


def test_a_batch_without_images_is_not_changed(tiny_llava: nn.Module):
    inputs = with_labels(tiny_inputs(images=(0, 0)), answers=True)
    plugin = reference_plugin("rcp", tiny_llava)
    with torch.no_grad():
        own = tiny_llava(**inputs).logits
    valid = inputs["attention_mask"].bool()
    for margin in (None, 2.0):
        logits = soft_logits(tiny_llava, plugin, inputs, margin)
        torch.testing.assert_close(logits[valid], own[valid], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", LEARNED)
def test_every_parameter_has_a_dimension(method: str, tiny_llava: nn.Module):
    """DeepSpeed broadcasts parameters as bytes, which a number of no dimension is not."""
    stages = [rcp.StageSpec(at, share, method) for at, share in ((1, 0.5), (3, 0.2))]
    for repair in REPAIRS.names():
        spec = rcp.PluginSpec(stages, RepairSpec([3, 5], repair), lora=rcp.LoraSpec(rank=2))
        plugin = Plugin.for_model(spec, tiny_llava)
        parts = {name.split(".")[0] for name, _ in plugin.named_parameters()}
        assert parts == {"pruners", "repair", "lora"}
        assert not [name for name, value in plugin.named_parameters() if value.dim() == 0]
