"""The noise gate: its shares, what it mixes, what learns by it, and its place in a training."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import rcp
from rcp.choosing.noise_gate import mixed_with_noise
from rcp.choosing.selection import soft_top_k
from rcp.training.export import export_checkpoint
from rcp.training.noise_gate import Denoiser, NoiseGateOptions
from rcp.training.options import OptimizerOptions
from rcp.training.phases import GuideOptions, PolicyOptions, RetentionOptions
from tests.decoding import family, plugin_for, prompt_ends
from tests.families import Sample
from tests.test_training_plugin import (
    FILM,
    RCP,
    Gradients,
    KeepCheckpoint,
    data,
    fingerprint,
    options,
    trainer,
    training,
)
from tests.tiny import rcp_spec

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ENTRY = [rcp.StageSpec(0, 0.25, "rcp", RCP)]
GATE = NoiseGateOptions(inner=8)


def gated(base: Path, **changes: Any) -> Any:
    plugin = options(stages=ENTRY, repair=None)
    return training(base, **{"plugin": plugin, "noise_gate": GATE, "guide": None, **changes})


# -- the shares ----------------------------------------------------------------------------------


def test_shares_of_a_soft_top_k_by_hand():
    """Scores 1 and -1 of which one is kept: the level is 0 by symmetry."""
    alive = torch.tensor([[True, True, False]])
    shares = soft_top_k(torch.tensor([[1.0, -1.0, 7.0]]), alive, torch.tensor([1]), 0.5)
    expected = torch.sigmoid(torch.tensor([2.0, -2.0]))
    torch.testing.assert_close(shares, torch.cat([expected, torch.zeros(1)])[None])


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_shares_add_up_to_the_count_at_any_scale(temperature: float):
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        scores = torch.randn(4, 60) * scale + 50 * scale
        alive = torch.rand(4, 60) < 0.8
        counts = torch.tensor([1, 7, 20, 60])
        shares = soft_top_k(scores, alive, counts, temperature)
        wanted = torch.minimum(counts, alive.sum(1)).float()
        torch.testing.assert_close(shares.sum(1), wanted, rtol=0, atol=0.02)
        assert not shares[~alive].any() and (0 <= shares).all() and (shares <= 1).all()


def test_the_gradient_of_shares_is_that_of_differences():
    torch.manual_seed(1)
    scores = torch.randn(2, 9, dtype=torch.float32)
    alive, counts = torch.ones(2, 9, dtype=torch.bool), torch.tensor([2, 5])
    weight = torch.randn(2, 9)

    def value(at: torch.Tensor) -> torch.Tensor:
        return (soft_top_k(at, alive, counts, 1.0) * weight).sum()

    asked = scores.clone().requires_grad_()
    value(asked).backward()
    for n in range(9):
        step = torch.zeros(2, 9)
        step[0, n] = 1e-2
        slope = (value(scores + step) - value(scores - step)) / 2e-2
        assert asked.grad[0, n].item() == pytest.approx(slope.item(), abs=2e-3)
    assert asked.grad.sum(1).abs().max() < 1e-5, "all scores higher by the same: nothing changes"


def test_shares_without_any_token_are_finite_and_zero():
    scores = torch.zeros(1, 3, requires_grad=True)
    shares = soft_top_k(scores, torch.zeros(1, 3, dtype=torch.bool), torch.tensor([2]), 1.0)
    shares.sum().backward()
    assert not shares.any() and scores.grad.isfinite().all()


# -- the rows ------------------------------------------------------------------------------------


def test_a_token_is_itself_where_it_is_kept_and_like_any_where_not():
    torch.manual_seed(0)
    rows = torch.randn(1, 4000, 3) * torch.tensor([1.0, 2.0, 5.0]) + torch.tensor([0.0, 9.0, -4.0])
    alive = torch.ones(1, 4000, dtype=torch.bool)
    for share in (0.0, 0.3, 1.0):
        mixed = mixed_with_noise(rows, torch.full((1, 4000), share), alive)
        torch.testing.assert_close(mixed.mean(1), rows.mean(1), atol=0.2, rtol=0)
        torch.testing.assert_close(mixed.std(1), rows.std(1), atol=0.15, rtol=0)
        centred = [(one - rows.mean(1)) / rows.std(1) for one in (mixed, rows)]
        alike = (centred[0] * centred[1]).mean(1)
        torch.testing.assert_close(alike, torch.full((1, 3), share**0.5), atol=0.05, rtol=0)


def test_what_is_not_alive_tells_nothing_of_the_noise():
    rows = torch.randn(1, 6, 2)
    alive = torch.tensor([[True, True, True, True, False, False]])
    other = torch.where(alive[..., None], rows, 1e6)
    torch.manual_seed(0)
    first = mixed_with_noise(rows, torch.full((1, 6), 0.5), alive)
    torch.manual_seed(0)
    second = mixed_with_noise(other, torch.full((1, 6), 0.5), alive)
    assert torch.equal(first[:, :4], second[:, :4])


def test_a_denoiser_begins_as_nothing_and_sees_one_token_at_a_time():
    torch.manual_seed(0)
    denoiser = Denoiser(6, 4)
    rows = torch.randn(2, 5, 6)
    assert torch.equal(denoiser(rows), rows)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter)
    found = denoiser(rows)
    torch.testing.assert_close(found[1, 3], denoiser(rows[1:2, 3:4])[0, 0])
    assert not torch.allclose(found, rows)


# -- the forward ---------------------------------------------------------------------------------

SAMPLES = (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0))


@pytest.mark.parametrize("name", ["llava-llama", "gemma3-window", "qwen3_vl", "idefics3"])
def test_every_token_reaches_the_decoder_and_a_gradient_the_scores(name: str):
    case = family(name)
    inputs = case.inputs(SAMPLES)
    plugin = plugin_for(case, rcp_spec(layers=(0,), repair=()))
    denoiser = Denoiser(plugin.hidden_size, 4)
    relaxation = rcp.Relaxation(denoiser=denoiser)
    with rcp.attach(case.model, plugin, "soft", relaxation=relaxation) as handle:
        with handle.trace() as trace, handle.prompt(prompt_ends(inputs)):
            found = case.model(**inputs, use_cache=False).logits
    found.square().mean().backward()
    assert plugin.pruner(0).bias.grad is not None
    parameters = [*plugin.parameters(), *denoiser.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    counts = [plugin.schedule.count(0, int(n)) for n in trace.visual_valid.sum(1)]
    assert trace.kept[0].sum(1).tolist() == pytest.approx(counts, abs=0.02)
    full = case.model(**inputs, use_cache=False).logits
    text = inputs["attention_mask"][2].bool()
    torch.testing.assert_close(found[2, text], full[2, text])  # a sample without images
    assert not torch.allclose(found[0], full[0])


def test_where_all_are_kept_nothing_changes():
    case = family("llava-llama")
    inputs = case.inputs(SAMPLES)
    plugin = plugin_for(case, rcp_spec(layers=(0,), ratios=(1.0,), repair=()))
    relaxation = rcp.Relaxation(denoiser=Denoiser(plugin.hidden_size, 4))
    with rcp.attach(case.model, plugin, "soft", relaxation=relaxation) as handle:
        with handle.prompt(prompt_ends(inputs)):
            found = case.model(**inputs, use_cache=False).logits
    full = case.model(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, full, atol=2e-2, rtol=0)


# -- the training --------------------------------------------------------------------------------


def test_the_gate_trains_pruner_and_denoiser_and_exports_the_pruner(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    seen = Gradients()
    module = gated(base_folder)
    before = copy.deepcopy(module.denoiser.state_dict())
    frozen = fingerprint(module.model)
    trainer(tmp_path, 3, (seen,)).fit(module, data(conversations, batch_size=4))
    assert fingerprint(module.model) == frozen
    silent = [name for name, g in seen.plugin.items() if g is None or not g.abs().max() > 1e-9]
    assert all(name.endswith("bias") for name in silent), "the scores' level changes nothing"
    moved = [name for name, value in module.denoiser.state_dict().items()
             if not torch.equal(value, before[name])]
    assert len(moved) >= 4
    assert seen.logged["train/kept_from_layer_0"] == pytest.approx(4, abs=0.02)
    exported = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "plugin")
    assert [name for name, _ in exported.named_parameters()] == [
        name for name, _ in module.plugin.named_parameters()
    ]
    assert exported.training_summary["noise_gate"] == {"inner": 8}


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    ends = []
    keep = KeepCheckpoint(tmp_path / "0", 2)
    for number, checkpoint in enumerate((None, tmp_path / "0" / "kept.ckpt")):
        torch.manual_seed(0)
        module, folder = gated(base_folder), tmp_path / str(number)
        run = trainer(folder, 4, (keep,) if number == 0 else (), val_check_interval=1)
        run.fit(module, data(conversations, batch_size=2), ckpt_path=checkpoint)
        ends.append(fingerprint(module.plugin) + fingerprint(module.denoiser))
    assert ends[0] == ends[1]
    for other in (gated(base_folder, noise_gate=NoiseGateOptions(inner=9)),
                  gated(base_folder, noise_gate=None)):
        with pytest.raises(rcp.UserError, match="another model.noise_gate.*config.yaml"):
            trainer(tmp_path / "other", 4).fit(
                other, data(conversations), ckpt_path=tmp_path / "0" / "kept.ckpt"
            )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noise_gate": NoiseGateOptions(inner=0)}, "noise_gate.inner is 0"),
        ({"plugin": options(repair=None)}, "rcp at 1, rcp at 2. Give one learned stage at layer 0"),
        ({"plugin": options(stages=[rcp.StageSpec(0, 0.5, "uniform")])}, "uniform at 0"),
        ({"plugin": options(stages=ENTRY, repair=None, selection="threshold")}, "threshold"),
        ({"plugin": options(stages=ENTRY, repair=rcp.RepairSpec([3], arguments=FILM))},
         "model.pruners_from"),
        ({"optimizer": OptimizerOptions(pruners=0.0)}, "optimizer.pruners: 0 keeps still"),
        ({"guide": GuideOptions(share=0.5)}, "model.guide is given"),
        ({"policy": PolicyOptions(0.5), "guide": GuideOptions(share=0.5)}, "model.guide is given"),
        ({"retention": RetentionOptions()}, "model.retention is given"),
        ({"margin": 2.0}, "model.margin is given"),
    ],
)
def test_a_gate_says_what_it_does_not_go_with(
    changes: dict[str, Any], message: str, base_folder: Path
):
    with pytest.raises(rcp.UserError, match=message):
        gated(base_folder, **changes)
