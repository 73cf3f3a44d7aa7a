"""Masks that want a gradient meet queries, keys or values that want one, as CUDA asks."""

import pytest
import torch
from torch import nn

from rcp import attach
from rcp.attaching.masks import meeting
from rcp.backbones import backbone_for
from rcp.choosing.relaxation import Relaxation
from rcp.objectives.relevance import relevance
from tests.attention_check import check_gradients
from tests.decoding import family, frozen, plugin_for, prompt_ends
from tests.families import FAMILIES, Sample
from tests.tiny import attention_spec, rcp_spec

SAMPLES = (Sample(3), Sample(4, question=3))
IMPLEMENTATIONS = ["sdpa", pytest.param("eager", marks=pytest.mark.slow)]


def test_the_check_fails_where_a_mask_alone_wants_a_gradient():
    rows, mask = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 2)
    check_gradients(rows, rows, rows, mask)
    wanting = mask.clone().requires_grad_()
    check_gradients(rows, rows, rows.clone().requires_grad_(), wanting)
    with torch.no_grad():
        check_gradients(rows, rows, rows, wanting)
    with pytest.raises(AssertionError, match="an attention mask wants a gradient"):
        check_gradients(rows, rows, rows, wanting)


def test_a_gradient_ends_at_the_leaf():
    before = nn.Linear(3, 3)
    hidden, mask = before(torch.ones(1, 2, 3)).detach(), torch.zeros(1, requires_grad=True)
    leaf = meeting(hidden, mask)
    assert leaf.requires_grad and leaf.is_leaf and torch.equal(leaf, hidden)
    (leaf.sum() + mask.sum()).backward()
    assert before.weight.grad is None and mask.grad is not None
    assert meeting(hidden, None) is hidden and meeting(hidden, mask.detach()) is hidden
    wanting = before(torch.ones(1, 2, 3))
    assert meeting(wanting, mask) is wanting, "a gradient that is wanted goes on"


def case_with(name: str, implementation: str):
    if implementation == "sdpa":
        return family(name)
    case = frozen(FAMILIES[name]())
    case.model.set_attn_implementation(implementation)
    return case


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_training_reaches_the_pruners_of_every_stage(name: str, implementation: str):
    """Everything before the first stage is frozen, wherever that stage is."""
    case = case_with(name, implementation)
    inputs = case.inputs(SAMPLES)
    for layers in ((0, 3), (2, 4)):
        plugin = plugin_for(case, rcp_spec(layers=layers, repair=()))
        relaxation = Relaxation(margin=2.0)
        with attach(case.model, plugin, "soft", relaxation=relaxation) as handle:
            with handle.prompt(prompt_ends(inputs)):
                case.model(**inputs, use_cache=False).logits.square().mean().backward()
        for layer in layers:
            assert plugin.pruner(layer).bias.grad.abs().sum() > 0
        assert all(parameter.grad is None for parameter in case.model.parameters())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_teacher_tells_the_relevance_in_any_layer(name: str, implementation: str):
    """Where only deep layers have a bias, nothing before them wants a gradient."""
    case = case_with(name, implementation)
    inputs, depth = case.inputs(SAMPLES), len(backbone_for(case.model).layers)
    plugin = plugin_for(case, attention_spec())
    for layers in (range(depth), [depth - 1]):
        with attach(case.model, plugin, "record") as handle:
            with handle.trace(biases=layers) as trace:
                logits = case.model(**inputs, use_cache=False).logits
                found = relevance(trace, logits.log_softmax(-1)[:, -1, 7].sum())
        assert found.shape[1] == len(layers) and found.isfinite().all()
