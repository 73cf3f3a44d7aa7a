"""Pruners that learn from draws: what the answer gains by the tokens that were kept together."""

from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.attach import attach
from rcp.attaching.trace import Trace
from rcp.choosing.learned_count import Counting
from rcp.choosing.sampling import Sampling
from rcp.choosing.tokens import IGNORED
from rcp.choosing.view import View
from rcp.conversations import Batch
from rcp.folder.weights import filled
from rcp.objectives import losses, plackett_luce
from rcp.plugin import Plugin
from rcp.training.checkpoint import WHAT, tensors_by_name
from rcp.training.objective import answer_logits
from rcp.training.phases import drawing_layers
from rcp.training.sharded import independent_copy

PRICE = "rcp_price"
"""Key, in a checkpoint, of what tokens cost where their number is learned."""

PRICE_RATE = 0.02
"""Nats a step, for a mean count twice that of the budget."""

BEGINNING = "rcp_beginning"
"""Key, in a checkpoint, of the plug-in's weights as they were when the phase began."""


class Beginning:
    """The plug-in as it was when the phase began, a frozen copy; none before.

    Not a module, so that no strategy shards it and no optimiser moves it.
    """

    def __init__(self) -> None:
        self.plugin: Plugin | None = None

    def of(self, plugin: Plugin) -> Plugin:
        """The copy, made of ``plugin`` at the first call, in all processes together."""
        if self.plugin is None:
            self.plugin = independent_copy(plugin).requires_grad_(False)
        return self.plugin

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the copy into ``checkpoint``, where there is one."""
        if self.plugin is not None:
            state = self.plugin.state_dict()
            checkpoint[BEGINNING] = {name: value.cpu() for name, value in state.items()}

    def load(self, checkpoint: dict[str, Any], plugin: Plugin) -> None:
        """Take the copy of a training of ``plugin`` from ``checkpoint``, where there is one.

        Raises ``UserError`` for what are not this plug-in's tensors.
        """
        if BEGINNING in checkpoint:
            weights = tensors_by_name(checkpoint[BEGINNING], WHAT)
            sizes = plugin.spec, plugin.hidden_size, plugin.num_layers
            self.plugin = filled(*sizes, weights, WHAT).requires_grad_(False)


class Price:
    """What the answer must gain, in nats, for a sample to be worth its whole budget once more."""

    def __init__(self) -> None:
        self.value = 0.0

    def follow(self, multiple: float) -> None:
        """Rise or fall as samples kept ``multiple`` times their budget in the mean."""
        self.value = max(0.0, self.value + PRICE_RATE * (multiple - 1))

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put it into ``checkpoint``."""
        checkpoint[PRICE] = self.value

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take it from ``checkpoint``, where there is one."""
        self.value = float(checkpoint.get(PRICE, 0.0))


def times(batch: Batch, count: int) -> Batch:
    """``batch`` with its samples ``count`` times over, one whole batch after another."""
    return {
        "inputs": {name: torch.cat([value] * count) for name, value in batch["inputs"].items()},
        "labels": torch.cat([batch["labels"]] * count),
        "ids": batch["ids"] * count,
        "question_types": batch["question_types"] * count,
        "answers": batch["answers"] * count,
        "skipped": batch["skipped"],
        "own": batch["own"] * count,
    }


def policy_terms(
    model: nn.Module,
    plugin: Plugin,
    beginning: Plugin,
    batch: Batch,
    group: int,
    reduce: losses.Reduce | None,
    price: float = 0.0,
) -> tuple[dict[str, Tensor], Trace, Tensor]:
    """The terms "policy" and "guide", what the forward saw, and the rewards (G, B) in nats.

    What a sample keeps beyond its budget costs it ``price`` a budget, where that is learned.

    ``batch`` holds its samples ``group`` times over, as :func:`times` does. The model runs once, on
    all of it, without a graph; the pruners then score once more what they saw, with one.
    """
    layers = drawing_layers(plugin)
    with torch.no_grad(), attach(model, plugin, "soft", relaxation=Sampling()) as handle:
        with handle.trace(views=layers) as seen:
            logits, labels = answer_logits(model, batch)
    answer = labels[:, 1:] != IGNORED
    likelihoods = losses.answer_log_likelihoods(logits, labels)
    rewards = (likelihoods.sum(1) / answer.sum(1).clamp(min=1)).unflatten(0, (group, -1))
    samples, drawn, gaps = rewards.shape[1], torch.zeros_like(rewards), []
    for layer in layers:
        view, order = seen.views[layer], seen.drawn[layer]
        shared = layer == plugin.schedule.layers[0]  # where all draws of a sample see the same
        if shared:
            view = view.mapped(lambda value: value[:samples])
        scores, alive = plugin.pruner(layer)(view), view.alive
        shares = _shares(beginning, layer, view)
        gaps.append(losses.ranking_loss(scores, shares, alive, reduce=reduce))
        if shared:
            scores, alive = scores.repeat(group, 1), alive.repeat(group, 1)
        found = plackett_luce.log_probability(scores, order.to(scores.device), alive)
        if layer in seen.multiples:
            found = found + _of_multiples(plugin, layer, view, scores, seen.multiples[layer])
        drawn = drawn + found.to(drawn.device).view_as(drawn)
    assert seen.visual_valid is not None
    counted = answer.any(1) & seen.visual_valid.any(1).to(answer.device)
    paid = rewards
    if seen.multiples:
        paid = rewards - price * (_kept_multiples(plugin, seen).view_as(rewards) - 1)
    loss = plackett_luce.policy_loss(drawn, paid, counted[:samples], reduce=reduce)
    return {"policy": loss, "guide": torch.stack(gaps).mean()}, seen, rewards


def mean_multiple(plugin: Plugin, seen: Trace, reduce: losses.Reduce | None) -> float:
    """How many times their budget the samples kept, in the mean."""
    kept = _kept_multiples(plugin, seen)
    total = torch.stack([kept.sum(), torch.ones_like(kept).sum()])
    total = total if reduce is None else reduce(total)
    return (total[0] / total[1]).item()


def _kept_multiples(plugin: Plugin, seen: Trace) -> Tensor:
    """Of each sample (B,) what it kept, as a multiple of its budget, mean over layers; 1 where it
    has no image."""
    assert seen.visual_valid is not None
    totals = seen.visual_valid.sum(1).tolist()
    kept = wanted = torch.zeros(len(totals), device=seen.visual_valid.device)
    for stage, span in enumerate(plugin.schedule.spans[1:]):
        kept = kept + span * seen.kept[stage].detach().sum(1)
        wanted = wanted + span * kept.new_tensor(_counts(plugin, stage, totals))
    return torch.where(wanted > 0, kept / wanted.clamp(min=1), 1.0)


def _counts(plugin: Plugin, stage: int, totals: list[int]) -> list[int]:
    return [plugin.schedule.count(stage, total) for total in totals]


def _of_multiples(
    plugin: Plugin, layer: int, view: View, scores: Tensor, drawn: Tensor
) -> Tensor:
    """Logarithm of the density of the multiples ``drawn`` (B,), but for a constant: (B,) fp32."""
    stage = plugin.schedule.layers.index(layer)
    counting = plugin.selection(stage)
    assert isinstance(counting, Counting)
    counts = torch.tensor(_counts(plugin, stage, view.total.tolist()), device=view.alive.device)
    means = counting.multiples(view, scores[: len(counts)], counts)
    means = means.repeat(len(drawn) // len(means)).to(drawn.device)
    return -((drawn - means) / Sampling.spread).square() / 2


@torch.no_grad()
def _shares(plugin: Plugin, layer: int, view: View) -> Tensor:
    """With what probability the pruner at ``layer`` draws each token first, (B, N) fp32."""
    pruner = plugin.pruner(layer).to(view.visual.device, view.visual.dtype)
    scores = pruner(view).float().masked_fill(~view.alive, plackett_luce.LOWEST)
    return scores.softmax(1) * view.alive
