"""What an attached plug-in adds to a forward, in operations: the price where launches are it.

A 7B prefill of batch 1 is bound by launches on a GPU: with more of them a pruned prefill is
slower than the full one, however few tokens it carries.
"""

from types import SimpleNamespace

import pytest
import torch

import rcp
from rcp import PluginSpec, RepairSpec, StageSpec
from rcp.pruners import Pruner
from tests.operations import Operations, deep_model, host_traffic, prompt

THREE = [StageSpec(1, 0.1672), StageSpec(13, 0.0459), StageSpec(25, 0.0144)]


class Decided(Pruner):
    """Decides nothing: what is counted with it is bookkeeping. Nameless, so that no other test
    meets it."""

    def select(self, view, counts):
        each = view.limit(counts)
        return torch.arange(view.alive.shape[1]).expand_as(view.alive) < each


PREFILL = {
    "decided": ([StageSpec(0, 1 / 9, "random")], None, 30),
    "decided inside": ([StageSpec(2, 1 / 9, "random")], None, 30),
    "random": ([StageSpec(0, 1 / 9, "random")], None, 45),
    "cls_attention": ([StageSpec(0, 1 / 9, "cls_attention")], None, 45),
    "fastv": ([StageSpec(2, 1 / 9, "fastv")], None, 70),
    "covipal": ([StageSpec(0, 1 / 9, "covipal")], None, 110),
    "one stage of rcp": (THREE[:1], None, 90),
    "three stages of rcp": (THREE, None, 225),
    "rcp, repaired": (THREE, RepairSpec([22, 29]), 300),
}
"""Stages, repair, and the most operations that a prefill may have more than the full model's."""


@pytest.fixture(scope="module")
def model():
    return deep_model()


@pytest.fixture(scope="module")
def full(model):
    return counted(model)


def counted(model) -> SimpleNamespace:
    """Operations of a prefill and of the third decode step after it."""
    inputs = prompt()
    with torch.no_grad():
        with Operations() as prefill:
            cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(3):
            with Operations() as decode:
                model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)
    return SimpleNamespace(prefill=prefill.total, decode=decode.total)


def pruned(model, stages, repair=None, decided=False) -> SimpleNamespace:
    plugin = rcp.Plugin.for_model(PluginSpec(stages, repair), model).eval()
    if decided:
        for at in plugin.pruners:
            plugin.pruners[at] = Decided(plugin.hidden_size)
    with rcp.attach(model, plugin, "drop"):
        return counted(model)


@pytest.mark.parametrize("name", PREFILL)
def test_a_prefill_has_few_operations_more(model, full, name):
    stages, repair, most = PREFILL[name]
    found = pruned(model, stages, repair, decided=name.startswith("decided"))
    assert found.prefill - full.prefill <= most
    assert found.decode - full.decode <= (30 if repair else 0)


def test_a_further_stage_costs_no_more_than_the_first(model):
    one, three = pruned(model, THREE[:1]), pruned(model, THREE)
    assert three.prefill - one.prefill <= 2 * 75


def test_layers_without_anything_to_do_cost_nothing_in_a_decode_step(model, full):
    """A repair at one layer costs half of one at two."""
    one = pruned(model, THREE, RepairSpec([29])).decode - full.decode
    two = pruned(model, THREE, RepairSpec([22, 29])).decode - full.decode
    assert two == 2 * one > 0


def test_the_host_reads_once_and_sends_once(model, monkeypatch):
    plugin = rcp.Plugin.for_model(PluginSpec(THREE, RepairSpec([22, 29])), model).eval()
    inputs = prompt(batch=3)
    with rcp.attach(model, plugin, "drop"), torch.no_grad():
        with host_traffic(monkeypatch) as prefill:
            cache = model(**inputs, use_cache=True).past_key_values
        assert dict(prefill) == {"read": 1, "sent": 1}
        step = {"input_ids": inputs["input_ids"][:, -1:], "past_key_values": cache}
        model(**step)
        with host_traffic(monkeypatch) as decode:
            model(**step)
        assert not decode


def test_a_ragged_batch_sends_its_counts_and_nothing_else(model, monkeypatch):
    plugin = rcp.Plugin.for_model(PluginSpec(THREE, RepairSpec([22, 29])), model).eval()
    inputs = prompt(batch=2)
    inputs["attention_mask"] = inputs["attention_mask"].clone()
    inputs["attention_mask"][1, :40] = 0
    with rcp.attach(model, plugin, "drop"), torch.no_grad():
        with host_traffic(monkeypatch) as prefill:
            model(**inputs, use_cache=True)
    assert dict(prefill) == {"read": 1, "sent": 1, "tensor": len(THREE)}


def test_nothing_of_a_view_is_made_that_is_not_read(model):
    """Whoever looks at no row has none normed: the layer's own norm is all that runs."""
    plugin = rcp.Plugin.for_model(PluginSpec([StageSpec(0, 1 / 9, "random")]), model).eval()
    ran = []
    norm = model.get_decoder().layers[0].input_layernorm
    hook = norm.register_forward_hook(lambda *_: ran.append(1))
    with rcp.attach(model, plugin, "drop"), torch.no_grad():
        model(**prompt())
    hook.remove()
    assert len(ran) == 1
