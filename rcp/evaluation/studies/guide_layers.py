"""Which layer's attention knows what matters: the guide that a pruner before it may learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rcp.atomic_write import atomic
from rcp.evaluation.contestants import FULL, Contestant
from rcp.evaluation.generation import Questions
from rcp.plugin import Plugin, PluginSpec, StageSpec


@dataclass(frozen=True)
class GuideScore:
    """``accuracy`` with the top-k of ``layer``'s attention alone, ``retained`` over the full."""

    layer: int
    accuracy: float
    retained: float


def guide_scores(questions: Questions, ratio: float, layers: Sequence[int]) -> list[GuideScore]:
    """How well the attention of each of ``layers`` chooses what enters the decoder, best first.

    The share ``ratio`` of the visual tokens stays: those that a full pass of the frozen model
    attends to most from the question at that layer.
    """
    model = questions.backbone.model
    oracles = []
    for layer in layers:
        stage = StageSpec(0, ratio, "oracle", {"layers": [layer]})
        plugin = Plugin.for_model(PluginSpec([stage]), model).eval()
        oracles.append(Contestant(f"layer {layer}", plugin))
    full, *tallies = questions.answer([Contestant(FULL), *oracles])
    scores = [
        GuideScore(layer, tally.accuracy, tally.accuracy / full.accuracy if full.accuracy else 0.0)
        for layer, tally in zip(layers, tallies)
    ]
    return sorted(scores, key=lambda score: (-score.accuracy, score.layer))


def plot_guide_scores(scores: Sequence[GuideScore], path: Path) -> None:
    """Draw the share of the full model's accuracy that each layer retains, as a PNG."""
    from matplotlib.figure import Figure

    found = sorted(scores, key=lambda score: score.layer)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.bar([score.layer for score in found], [100 * score.retained for score in found])
    axes.set(xlabel="guide layer", ylabel="accuracy retained (%)", ylim=(0, None))
    with atomic(path) as unfinished:
        figure.savefig(unfinished, dpi=150, format="png")
