"""Where tokens go and how many stay: ratios per stage, and their mean over the layers."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isclose

from rcp.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Cumulative keep ratios: from layer ``layers[i]`` on, ``ratios[i]`` of the tokens are alive.

    ``num_layers`` is the depth of the decoder. Layers before the first stage keep everything.
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    num_layers: int

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.ratios):
            raise UserError(
                f"A schedule names {len(self.layers)} layers but {len(self.ratios)} ratios. "
                f"Give one ratio per pruning layer."
            )
        if list(self.layers) != sorted(set(self.layers)):
            raise UserError(
                f"Pruning layers {list(self.layers)} must rise. Sort them and name each once."
            )
        for layer in self.layers:
            if not 0 <= layer < self.num_layers:
                raise UserError(
                    f"Pruning layer {layer} is outside the model: its decoder has "
                    f"{self.num_layers} layers, so 0 to {self.num_layers - 1} are allowed. "
                    f"Choose a layer in that range."
                )
        previous = 1.0
        for ratio in self.ratios:
            if not 0.0 <= ratio <= previous:
                raise UserError(
                    f"Keep ratios {list(self.ratios)} must lie in [0, 1] and never rise, since "
                    f"nothing comes back once dropped. Lower {ratio} or raise the one before it."
                )
            previous = ratio

    @property
    def spans(self) -> tuple[int, ...]:
        """How many layers run before the first stage, then under each stage; sums to the depth."""
        edges = (0, *self.layers, self.num_layers)
        return tuple(b - a for a, b in zip(edges, edges[1:]))

    @property
    def mean_ratio(self) -> float:
        """Kept share of the visual tokens, mean over the decoder's layers (RCP [computed])."""
        kept = (1.0, *self.ratios)
        return sum(n * r for n, r in zip(self.spans, kept)) / self.num_layers

    def stage_over(self, layer: int) -> int | None:
        """The last stage at or before ``layer``, None where there is none."""
        at_or_before = bisect_right(self.layers, layer)
        return at_or_before - 1 if at_or_before else None

    @property
    def wiped_from(self) -> int | None:
        """The layer from which on no visual token is left; None where some always are."""
        return next((n for n, ratio in zip(self.layers, self.ratios) if ratio == 0), None)

    @property
    def decay(self) -> float | None:
        """What each stage keeps of the one before, geometric mean; None where nothing tells.

        A stage that keeps nothing is none of them.
        """
        kept = [ratio for ratio in self.ratios if ratio > 0]
        if len(kept) < 2:
            return None
        return (kept[-1] / kept[0]) ** (1 / (len(kept) - 1))

    def at(self, mean_ratio: float) -> "Schedule":
        """The same layers with another mean, falling as this one does; see :func:`schedule_for`.

        At its own mean it is this one, however it falls.
        """
        if isclose(mean_ratio, self.mean_ratio):
            return self
        stages = tuple(n for n, ratio in zip(self.layers, self.ratios) if ratio > 0)
        other = schedule_for(mean_ratio, stages, self.num_layers, self.decay, self.wiped_from)
        wiped = (0.0,) * (len(self.layers) - len(stages))
        return replace(self, ratios=(*other.ratios[: len(stages)], *wiped))

    def count(self, stage: int, tokens: int) -> int:
        """Tokens of a sample of ``tokens`` alive after ``stage``: max(1, round(ratio * N)).

        A ratio of exactly 0 drops everything.
        """
        ratio = self.ratios[stage]
        if ratio == 0 or tokens == 0:
            return 0
        return max(1, int(ratio * tokens + 0.5))


def by_row(schedules: Sequence[Schedule], rows: int) -> list[Schedule]:
    """One of ``schedules`` for each of ``rows`` rows: equally many, one after the other.

    Beams and several answers repeat each row. Raises ``UserError`` where they do not come out even.
    """
    each, left = divmod(rows, len(schedules))
    if left:
        raise UserError(
            f"visual_budget has {len(schedules)} numbers, but a forward has {rows} rows, which no "
            f"repetition of them gives. Give one number for all rows."
        )
    return [schedule for schedule in schedules for _ in range(each)]


@dataclass(frozen=True)
class Published:
    """A schedule that a paper gives for ``model``, whose decoder has ``depth`` layers.

    ``ratios`` of the *original* tokens are alive from the 0-based ``layers`` on.
    """

    model: str
    depth: int
    layers: tuple[int, ...]
    ratios: tuple[float, ...]

    def layers_in(self, num_layers: int) -> tuple[int, ...]:
        """The same places in a decoder of ``num_layers``; layer 0 stays 0 and only layer 0."""
        found: list[int] = []
        for layer in self.layers:
            scaled = max(round(layer * num_layers / self.depth), min(layer, 1))
            found.append(max([scaled, *(at + 1 for at in found)]))
        return tuple(found)


def ratio_of(budget: float, tokens: int) -> float:
    """``budget`` tokens out of ``tokens`` as a ratio; ``UserError`` for an impossible number."""
    if not 1 <= budget <= tokens:
        raise UserError(
            f"A budget of {budget:g} visual tokens is impossible: this model has {tokens}, so 1 to "
            f"{tokens} are allowed. Choose a budget in that range."
        )
    return budget / tokens


def mean_ratio_of(budget: float, tokens: int | None) -> float:
    """A budget as a user gives it, as a mean ratio: below 1 it is one, else a count of tokens.

    ``tokens``: visual tokens of an image, None where their number varies with the image. Raises
    ``UserError`` for a count that is impossible, or says nothing about such a model.
    """
    if 0 < budget < 1:
        return budget
    if tokens is None:
        raise UserError(
            f"A budget of {budget:g} tokens says nothing about this model, whose number of visual "
            "tokens varies with the image. Give the budget as a share between 0 and 1."
        )
    return ratio_of(budget, tokens)


def schedule_for(
    mean_ratio: float,
    layers: tuple[int, ...],
    num_layers: int,
    decay: float | None = None,
    wiped_from: int | None = None,
) -> Schedule:
    """A schedule whose layer-weighted mean is ``mean_ratio``, with stages at ``layers``.

    With ``wiped_from`` a last stage there drops all visual tokens that are left, and the layers
    before have what it saves (FinalWipe of TwigVLM, arXiv 2503.14075); ``rcp horizon`` says from
    which layer on a model reads them no longer. Each stage keeps ``decay`` times what the one
    before kept. With ``decay`` None the shares fall geometrically so that the last stage keeps a
    tenth of the first, which is close to the published 64-token row (16.7 → 1.4 %, RCP [draft]);
    the shape is our decision [ours]. Raises ``UserError`` as :func:`shaped` does.
    """
    if decay is None:
        decay = 0.1 ** (1 / max(1, len(layers) - 1))
    shape = [decay**i for i in range(len(layers))]
    return shaped(shape, mean_ratio, layers, num_layers, wiped_from)


def shaped(
    shape: Sequence[float],
    mean_ratio: float,
    layers: tuple[int, ...],
    num_layers: int,
    wiped_from: int | None = None,
) -> Schedule:
    """The schedule of that mean whose stages keep in proportion to ``shape``, but at most all.

    ``shape``: a positive number for each of ``layers``, never rising. What a stage cannot hold goes
    to those behind it. ``wiped_from`` as in :func:`schedule_for`. Raises ``UserError`` where the
    layers before the first stage alone cost more than the budget, for a mean above 1 or above what
    the layers before ``wiped_from`` can hold, and for layers that cannot be.
    """
    if not layers or not mean_ratio <= 1.0:
        raise UserError(
            f"A mean of {mean_ratio:.2%} of the visual tokens with stages at the layers "
            f"{list(layers)} is not a schedule. Name at least one layer, and give a share of the "
            f"tokens above 0 and at most 1."
        )
    wiped = () if wiped_from is None else (wiped_from,)
    stages = (*layers, *wiped)
    # refuses impossible layers; what lies under a stage that keeps nothing costs nothing
    spans = Schedule(stages, (0.0,) * len(stages), num_layers).spans[: len(layers) + 1]
    first, most = layers[0], sum(spans) / num_layers
    if mean_ratio > most:
        raise UserError(
            f"A mean of {mean_ratio:.2%} of the visual tokens is more than the {wiped_from} "
            f"layers before all are dropped can hold, {most:.2%} of {num_layers} layers. "
            "Lower the budget, or drop them later."
        )
    floor = first / num_layers
    if mean_ratio <= floor:
        raise UserError(
            f"A mean of {mean_ratio:.2%} of the visual tokens is out of reach with the first "
            f"pruning layer at {first}: the {first} layers before it keep everything and cost "
            f"{floor:.2%} of {num_layers} layers already. Prune earlier, or raise the budget "
            f"above {floor:.2%}."
        )
    left = mean_ratio * num_layers - first
    # water-filling: no stage may keep more than everything
    ratios = [0.0] * len(layers)
    for i in range(len(layers)):
        weight = sum(n * s for n, s in zip(spans[1 + i:], shape[i:]))
        ratio = left * shape[i] / weight
        if ratio < 1.0:
            for j in range(i, len(layers)):
                ratios[j] = left * shape[j] / weight
            break
        ratios[i] = 1.0
        left -= spans[1 + i]
    return Schedule(stages, (*ratios, *(0.0 for _ in wiped)), num_layers)
