"""CoViPAL's pruning module: what it reads, what it ignores, what it costs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import rcp
from rcp.base_model.cost import DecoderSizes, prefill_flops
from rcp.choosing.view import View
from rcp.pruners.covipal import ContextualPruner
from tests.tiny import COVIPAL_ARGUMENTS, covipal_spec, randomised, text_rows

WIDTH = 24


def view(batch: int = 2, tokens: int = 16, words: int = 5, width: int = WIDTH) -> View:
    rank = torch.arange(tokens).expand(batch, -1)
    side = int(tokens**0.5)
    return View(
        layer=0,
        visual=torch.randn(batch, tokens, width),
        alive=torch.ones(batch, tokens, dtype=torch.bool),
        question=torch.randn(batch, words, width),
        question_valid=torch.ones(batch, words, dtype=torch.bool),
        rank=rank,
        total=torch.full((batch,), tokens),
        image_index=torch.zeros(batch, tokens, dtype=torch.long),
        grid=torch.stack([rank // side, rank % side], -1) * 2.0 / side - 1,
    )


def module(**changes: object) -> ContextualPruner:
    return randomised_module(ContextualPruner(WIDTH, **COVIPAL_ARGUMENTS | changes))


def randomised_module(pruner: ContextualPruner) -> ContextualPruner:
    generator = torch.Generator().manual_seed(3)
    for parameter in pruner.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return pruner.eval()


def changed(pruner: ContextualPruner, seen: View, **changes: torch.Tensor) -> float:
    return (pruner(seen) - pruner(replace(seen, **changes))).abs().max().item()


def test_it_reads_the_question_its_neighbours_and_places():
    seen, pruner = view(), module()
    assert changed(pruner, seen, question=torch.randn_like(seen.question)) > 1e-2
    assert changed(pruner, seen, grid=-seen.grid) > 1e-2
    other = seen.visual.clone()
    other[:, 3] = torch.randn(WIDTH)
    kept = [slot for slot in range(16) if slot != 3]
    gap = (pruner(seen) - pruner(replace(seen, visual=other)))[:, kept].abs()
    assert gap.max() > 1e-3, "a score should depend on the other tokens too"


def test_a_vector_common_to_all_tokens_does_not_matter():
    """Deeper in the decoder it dwarfs what tells tokens apart."""
    seen, pruner = view(), module()
    assert changed(pruner, seen, visual=seen.visual + 30 * torch.randn(2, 1, WIDTH)) < 1e-4


def test_a_fresh_module_hears_the_question_from_the_first_step():
    """A gate that starts shut lets no gradient to what reads the question."""
    pruner = ContextualPruner(WIDTH, **COVIPAL_ARGUMENTS)
    pruner(view()).square().sum().backward()
    silent = [n for n, p in pruner.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_text_free_variant_has_nothing_that_reads_text():
    seen, free = view(), module(text=False)
    assert changed(free, seen, question=torch.randn_like(seen.question)) == 0
    names = {name for name, _ in free.named_parameters()}
    assert not any("cross" in name or "question" in name for name in names)


def test_a_blind_module_has_the_same_weights_and_no_question():
    seen, pruner = view(), module()
    blind = module(blind=True)
    blind.load_state_dict(pruner.state_dict())
    assert changed(blind, seen, question=torch.randn_like(seen.question)) == 0
    assert (blind(seen) - pruner(seen)).abs().max() > 1e-2
    unasked = replace(seen, question_valid=torch.zeros_like(seen.question_valid))
    assert torch.equal(blind(seen), pruner(unasked))


def test_padding_and_dead_tokens_do_not_matter():
    seen, pruner = view(), module()
    question = torch.cat([seen.question, torch.full((2, 3, WIDTH), 9.0)], 1)
    valid = torch.cat([seen.question_valid, torch.zeros(2, 3, dtype=torch.bool)], 1)
    padded = replace(seen, question=question, question_valid=valid)
    assert (pruner(padded) - pruner(seen)).abs().max() < 1e-5
    dead = seen.alive.clone()
    dead[:, 10:] = False
    with_dead = pruner(replace(seen, alive=dead))[:, :10]
    names = ("visual", "alive", "rank", "image_index", "grid")
    without = pruner(replace(seen, **{name: getattr(seen, name)[:, :10] for name in names}))
    assert (with_dead - without).abs().max() < 1e-5


def test_tokens_without_a_place_and_samples_without_anything_are_finite():
    seen, pruner = view(), module()
    grid = seen.grid.clone()
    grid[:, ::4] = torch.nan
    nothing = torch.zeros_like(seen.alive)
    assert pruner(replace(seen, grid=grid)).isfinite().all()
    assert pruner(replace(seen, alive=nothing)).isfinite().all()


@pytest.mark.parametrize(("blocks", "least", "most"), [(1, 5e6, 8e6), (2, 8e6, 13e6)])
def test_its_size_at_the_width_of_a_7b_model(blocks, least, most):
    with torch.device("meta"):
        pruner = ContextualPruner(4096, blocks=blocks)
    assert least < sum(p.numel() for p in pruner.parameters()) < most


LLAVA_7B = DecoderSizes(4096, 11008, 32, 32, 128, 32064, True, (None,) * 32)
QUESTION = 40
"""Text rows of a short prompt; a longer one makes the prefill dearer, and the share smaller."""


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("kept", [64, 128, 192])
def test_selection_takes_two_percent_of_the_pruned_prefill_at_most(blocks, kept):
    """LLaVA-1.5-7B, 576 visual tokens, counted by torch on tensors without data."""
    with torch.device("meta"):
        pruner = ContextualPruner(4096, blocks=blocks)
        seen = view(1, 576, QUESTION, 4096)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        pruner(seen)
    prefill = prefill_flops(LLAVA_7B, [kept + QUESTION] * 32)
    share = counter.get_total_flops() / prefill
    assert 0.001 < share < 0.02, f"{share:.2%}"


@torch.no_grad()
def test_covipal_and_rcp_share_one_plugin_with_repair(tiny_llava, inputs, tmp_path):
    """Masked, dropped, saved and loaded like any other."""
    spec = covipal_spec(repair=(4, 5))
    plugin = randomised(rcp.Plugin.for_model(spec, tiny_llava))
    rcp.save_plugin(plugin, tmp_path / "plugin")
    logits = {}
    for mode, used in (("soft", plugin), ("drop", plugin), ("load", None)):
        used = used or rcp.load_plugin(tmp_path / "plugin")
        with rcp.attach(tiny_llava, used, "soft" if mode == "soft" else "drop"):
            output = tiny_llava(**inputs)
        logits[mode] = output.logits[text_rows(inputs)]
    assert torch.equal(logits["load"], logits["drop"])
    assert (logits["soft"] - logits["drop"]).abs().max() < 1e-5
    assert rcp.plan_of(output.past_key_values).kept.tolist() == [[8, 8], [3, 3]]
    unrepaired = rcp.Plugin.for_model(covipal_spec(), tiny_llava)
    unrepaired.load_state_dict(plugin.state_dict(), strict=False)
    with rcp.attach(tiny_llava, unrepaired.eval()):
        gap = tiny_llava(**inputs).logits[text_rows(inputs)] - logits["drop"]
    assert gap.abs().max() > 1e-2, "the repair should be felt"
