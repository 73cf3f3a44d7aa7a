"""How many tokens a sample keeps, learned: heads, what they decide, their training and levels."""

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

import rcp
from benchmarks import calibrated as benchmark
from benchmarks.variants import CONFIGS, read_configuration
from rcp.__main__ import main
from rcp.choosing.learned_count import CountHead, Counting, CountOptions
from rcp.choosing.sampling import Sampling
from rcp.conversations import ConversationCollator, ConversationDataset
from rcp.evaluation.studies.calibration import calibrated, mean_level
from rcp.plugin import Plugin, StageSpec
from rcp.training.checkpoint import ENTRY
from rcp.training.export import export_checkpoint
from rcp.training.phases import GuideOptions, PolicyOptions
from rcp.training.policy import (
    PRICE,
    PRICE_RATE,
    Price,
    _of_multiples,
    mean_multiple,
    policy_terms,
    times,
)
from tests.test_calibrated import batch_of, kept_of, ragged
from tests.test_training_plugin import (
    RCP,
    Gradients,
    KeepCheckpoint,
    data,
    fingerprint,
    options,
    trainer,
    training,
)
from tests.tiny import randomised, rcp_spec, row_of, text_rows, tiny_inputs
from tests.views import WIDTH, make_view, narrowed

pytest_plugins = ["tests.training_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PARITY = 1e-5
COUNT = CountOptions(inner=8)
STAGES = [StageSpec(0, 0.5, "rcp", RCP), StageSpec(2, 0.25, "rcp", RCP)]


def counting(model: Any, layers=(1, 3), ratios=(0.5, 0.2)) -> Plugin:
    """A plug-in whose heads tell samples well apart."""
    spec = replace(rcp_spec(layers, ratios), selection="learned", count=COUNT)
    plugin = randomised(Plugin.for_model(spec, model))
    for parameter in plugin.counters.parameters():
        parameter.data.mul_(0.5)
    return plugin


# -- what is decided -------------------------------------------------------------------------------


def test_counts_by_hand():
    """Half of 4, 4 times at most, a quarter at least, and what is nothing stays nothing."""
    own = Counting(CountHead(3, 2), 0.0, fewest=0.25, most=4.0)
    said = torch.tensor([log(0.5), 0.0, 9.0, -9.0, log(1.6), 9.0])
    found = own.counts(said, torch.tensor([4, 4, 4, 4, 4, 0]))
    assert found.tolist() == [2, 4, 16, 1, 6, 0]


def test_a_fresh_head_keeps_the_count_itself_less_its_level():
    view = make_view(3, 10, "random", 0, torch.ones(3, 10, dtype=torch.bool))
    scores, counts = torch.randn(3, 10), torch.tensor([4, 4, 4])
    head = CountHead(WIDTH, 4)
    assert Counting(head, 0.0, 0.25, 4.0).multiples(view, scores, counts).tolist() == [0.0] * 3
    lower = Counting(head, log(2), 0.25, 4.0)
    assert lower.counts(lower.multiples(view, scores, counts), counts).tolist() == [2, 2, 2]


def test_a_head_sees_how_scores_fall_and_the_question_and_no_other_sample():
    torch.manual_seed(0)
    head = CountHead(WIDTH, 4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    alive = torch.rand(3, 12) < 0.7
    alive[:, 0] = True
    view = make_view(3, 12, "random", 1, alive)
    scores, counts = torch.randn(3, 12), torch.tensor([2, 3, 2])
    found = head(view, scores, counts)
    assert found.unique().numel() == 3
    for row in range(3):
        columns = alive[row].nonzero()[:, 0]
        alone = head(narrowed(view, [row], columns), scores[row:row + 1, columns],
                     counts[row:row + 1])
        torch.testing.assert_close(alone[0], found[row])
    torch.testing.assert_close(head(view, scores + 7, counts), found)  # their level tells nothing
    asked = scores.clone().requires_grad_()
    head(view, asked, counts).sum().backward()
    assert asked.grad is None, "and learns nothing by it"


def test_dropping_is_masking_and_a_row_is_by_itself(tiny_llava):
    plugin, inputs = counting(tiny_llava), ragged()
    (kept, drop), (masked, soft) = (kept_of(tiny_llava, plugin, inputs, mode)
                                    for mode in ("drop", "soft"))
    assert torch.equal(kept, masked) and kept[0, 3] == 0
    fixed, _ = kept_of(tiny_llava, Plugin(rcp_spec(), 48, 6), inputs)
    assert not torch.equal(kept, fixed)
    assert (drop - soft)[text_rows(inputs)].abs().max() < PARITY
    for row in range(3):
        alone, logits = kept_of(tiny_llava, plugin, row_of(inputs, row, (1, 2, 1, 0)))
        assert torch.equal(alone[:, 0], kept[:, row])
        assert (logits[0, -1] - drop[row, -1]).abs().max() < PARITY


def test_it_is_saved_and_read_back(tiny_llava, tmp_path):
    plugin = counting(tiny_llava).levelled([0.3, -0.2])
    rcp.save_plugin(plugin, tmp_path / "plugin")
    again = rcp.load_plugin(tmp_path / "plugin")
    assert again.spec == plugin.spec
    for one, other in zip(kept_of(tiny_llava, plugin, ragged()),
                          kept_of(tiny_llava, again, ragged())):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": None}, "selection 'learned' and count None do not go together"),
        ({"selection": "top_k"}, "do not go together.*null with any other"),
        ({"count": CountOptions(inner=0)}, "count.inner is 0"),
        ({"count": CountOptions(fewest=0.0)}, "count.fewest is 0.0"),
        ({"count": CountOptions(most=0.5)}, "count.most 0.5"),
        ({"count": CountOptions(levels=[0.0])}, "one number for each of the 2 stages"),
        ({"count": CountOptions(levels=[0.0, float("nan")])}, "levels is 'nan'"),
        ({"stages": [StageSpec(1, 0.5, "question_attention")]}, "does not learn"),
        ({"budgets": [0.1, 0.9]}, "no budget can be chosen afterwards"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    spec = replace(rcp_spec(repair=()), selection="learned", count=COUNT)
    Plugin(spec, 48, 6)
    with pytest.raises(rcp.UserError, match=message):
        Plugin(replace(spec, **changes), 48, 6)
    with pytest.raises(rcp.UserError, match="the counts of this plug-in are calibrated for"):
        Plugin(spec, 48, 6).at_budget(0.9)


# -- levels ----------------------------------------------------------------------------------------


def test_a_level_keeps_the_sum_of_fixed_counts():
    torch.manual_seed(0)
    own = Counting(CountHead(3, 2), 0.0, 0.25, 4.0)
    said, fixed = torch.randn(200) + 0.7, torch.randint(1, 40, (200,))
    level = mean_level(said, fixed, own)
    assert abs(own.counts(said - level, fixed).sum() - fixed.sum()) <= 3
    assert own.counts(said, fixed).sum() > 1.5 * fixed.sum()


@pytest.mark.parametrize("layers", [(0,), (0, 1, 3)])
def test_levelled_stages_keep_their_mean(tiny_llava, layers):
    plugin = counting(tiny_llava, layers, (0.5, 0.3, 0.2)[: len(layers)])
    batches = [batch_of(tiny_inputs(questions=(n, 9), images=(1, 2))) for n in range(3, 9)]
    batches.append(batch_of(ragged()))
    found = calibrated(tiny_llava, plugin, batches, 0.25, 4.0)
    fixed = replace(plugin.spec, selection="top_k", count=None)
    alike = Plugin(fixed, 48, 6)
    alike.load_state_dict({name: value for name, value in plugin.state_dict().items()
                           if not name.startswith("counters")})
    wanted, own = (
        torch.cat([kept_of(tiny_llava, one, batch["inputs"])[0] for batch in batches], 1)
        for one in (alike, found)
    )
    assert (wanted.sum(1) - own.sum(1)).abs().max() <= 2 and not torch.equal(wanted, own)
    assert found.spec.count.levels is not None and plugin.spec.count.levels is None


# -- training --------------------------------------------------------------------------------------


def drawing(base: Path, **changes: Any) -> Any:
    plugin = options(stages=STAGES, repair=None, selection="learned", count=COUNT)
    given = {"plugin": plugin, "guide": GuideOptions(share=0.5), "policy": PolicyOptions(0.5, 3)}
    return training(base, **{**given, **changes})


def test_a_price_rises_above_the_budget_and_never_falls_below_nothing():
    price = Price()
    price.follow(2.0)
    assert price.value == pytest.approx(PRICE_RATE)
    price.follow(0.5)
    assert price.value == pytest.approx(PRICE_RATE / 2)
    price.follow(-9.0)
    assert price.value == 0
    checkpoint = {}
    price.value = 0.25
    price.save(checkpoint)
    again = Price()
    again.load(checkpoint)
    assert again.value == 0.25 and checkpoint[PRICE] == 0.25


def test_draws_of_counts_and_their_density(base_folder: Path, conversations: Path):
    module = drawing(base_folder)
    plugin = randomised(module.plugin)
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[n] for n in range(3)])
    repeated = times(batch, 4)
    with rcp.attach(module.model, plugin, "soft", relaxation=Sampling()) as handle:
        with torch.no_grad(), handle.trace(views=[0, 2]) as seen:
            module.model(**repeated["inputs"], labels=repeated["labels"])
    drawn = seen.multiples[0]
    view, selection = seen.views[0], plugin.selection(0)
    counts = torch.full((12,), 8)
    means = selection.multiples(view, plugin.pruner(0)(view), counts)
    assert torch.equal(seen.kept[0].sum(1).long(), selection.counts(drawn, counts))
    assert drawn.unique().numel() == 12 and not torch.equal(drawn, means)
    of_three = view.mapped(lambda value: value[:3])
    scores = plugin.pruner(0)(of_three)
    density = _of_multiples(plugin, 0, of_three, scores.repeat(4, 1), drawn)
    wanted = [-((float(d - m) / 0.3) ** 2) / 2 for d, m in zip(drawn, means)]
    assert density.tolist() == pytest.approx(wanted, abs=1e-4)
    spans, ratios = plugin.schedule.spans[1:], (8, 4)
    kept = [sum(s * float(k.sum(1)[row]) for s, k in zip(spans, seen.kept)) for row in range(12)]
    fixed = sum(s * count for s, count in zip(spans, ratios))
    mean = sum(kept) / 12 / fixed
    assert mean_multiple(plugin, seen, None) == pytest.approx(mean)


def test_a_price_teaches_to_keep_less(base_folder: Path, conversations: Path):
    """Where tokens cost more than any answer gains, every head is pushed down."""
    module = drawing(base_folder)
    plugin = module.plugin
    dataset = ConversationDataset(conversations)
    batch = ConversationCollator(module.processor)([dataset[n] for n in range(4)])
    torch.manual_seed(0)
    terms, _, _ = policy_terms(
        module.model, plugin, plugin, times(batch, 16), 16, None, price=100.0
    )
    terms["policy"].backward()
    for head in plugin.counters.values():
        assert head.out.bias.grad.item() > 0  # descent lowers it


def test_heads_learn_under_the_policy_alone(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    seen = Gradients()
    module = drawing(base_folder, guide=GuideOptions(share=0.25), policy=PolicyOptions(0.5, 3))
    before = {name: value.clone() for name, value in module.plugin.counters.named_parameters()}
    run = trainer(tmp_path, 4, (seen,), limit_val_batches=0)
    run.fit(module, data(conversations, batch_size=4))
    assert "train/price" in seen.logged
    moved = [not torch.equal(value, before[name])
             for name, value in module.plugin.counters.named_parameters()]
    assert all(moved[-2:]), "what a head says; what it sees learns once that has moved"
    exported = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "plugin")
    assert exported.spec.count == COUNT
    second = training(
        base_folder, options(stages=STAGES, repair=None, selection="learned", count=COUNT),
        pruners_from=str(tmp_path / "plugin"), policy=PolicyOptions(1.0, 3),
    )
    assert fingerprint(second.plugin.counters) == fingerprint(exported.counters)


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    base_folder: Path, conversations: Path, tmp_path: Path
):
    ends, keep = [], KeepCheckpoint(tmp_path / "0", 3)
    for number, checkpoint in enumerate((None, tmp_path / "0" / "kept.ckpt")):
        torch.manual_seed(0)
        module = drawing(base_folder, guide=GuideOptions(share=0.25), policy=PolicyOptions(0.75, 2))
        module.price.value = 0.0 if checkpoint else 0.5
        more = (keep,) if number == 0 else ()
        run = trainer(tmp_path / str(number), 6, more, val_check_interval=1)
        run.fit(module, data(conversations, batch_size=4), ckpt_path=checkpoint)
        ends.append((fingerprint(module.plugin), module.price.value))
    assert ends[0] == ends[1] and ends[0][1] > 0
    written = torch.load(tmp_path / "0" / "last.ckpt", weights_only=True)
    assert written[PRICE] == ends[0][1] and written[ENTRY]["plugin"]["count"]["inner"] == 8


def test_the_command_levels_a_learned_count(
    base_folder: Path, conversations: Path, tmp_path: Path, capsys
):
    module = drawing(base_folder)
    rcp.save_plugin(randomised(module.plugin), tmp_path / "plugin")
    code = main(["calibrate", "--base", str(base_folder), "--plugin", str(tmp_path / "plugin"),
                 "--data", str(conversations), "--output", str(tmp_path / "levelled")])
    assert code == 0 and "level" in capsys.readouterr().out
    found = rcp.load_plugin(tmp_path / "levelled")
    assert found.spec.selection == "learned" and len(found.spec.count.levels) == 2


def test_the_benchmark_trains_counts_alone_and_compares_with_the_same_pruner(tiny_llava):
    recipe = read_configuration(Path(__file__).parent.parent / CONFIGS / benchmark.RECIPE)
    made = benchmark.counting(recipe, 1 / 18, Path("guide"))["model"]
    assert made["guide"] is None and made["policy"]["share"] == 1.0
    assert [stage["layer"] for stage in made["plugin"]["stages"]] == [0]
    spec = replace(rcp_spec(repair=()), selection="learned", count=COUNT)
    plugin = randomised(Plugin.for_model(spec, tiny_llava))
    fixed = benchmark.with_fixed_count(plugin)
    assert fixed.spec.count is None and fixed.spec.selection == "top_k"
    assert fingerprint(fixed.pruners) == fingerprint(plugin.pruners)
