"""A plug-in beside the full model and its controls: one call, one row a method."""

from collections.abc import Sequence
from dataclasses import dataclass

from rcp.choosing.schedule import Schedule
from rcp.evaluation.contestants import (
    FULL,
    Contestant,
    blinded,
    input_controls,
    schedule_controls,
)
from rcp.evaluation.generation import Questions
from rcp.evaluation.images import blank_image, downsampled_input
from rcp.evaluation.metrics.tally import Tally
from rcp.evaluation.prefill import encoder_flops, extra_flops, speedups
from rcp.evaluation.report import notes
from rcp.evaluation.report.rows import ResultRow, pooled


@dataclass(frozen=True)
class Timing:
    """How prefills are timed: samples a batch, and rounds over which the median is taken."""

    batch_size: int = 8
    rounds: int = 9


@dataclass(frozen=True)
class Report:
    """``rows``, the full model's first; ``notes``: sentences that belong under the table."""

    rows: list[ResultRow]
    notes: list[str]


def compare(
    questions: Questions,
    entrants: Sequence[Contestant],
    others: Sequence[Contestant] = (),
    *,
    controls: bool = True,
    seeds: int = 3,
    timing: Timing = Timing(),
) -> Report:
    """Answer ``questions`` with the full model, ``entrants``, ``others`` and the controls.

    ``entrants`` are the seeds of one method, ``others`` further plug-ins to set beside it. With
    ``controls`` come the blank image, and at the entrants' schedule and at their mean number of
    tokens what :mod:`rcp.evaluation.contestants` and :mod:`rcp.evaluation.images` describe.
    """
    contestants = [Contestant(FULL), *entrants, *others]
    tallies = questions.answer(contestants)
    if controls:
        more = _controls(questions, entrants, tallies[0], tallies[1], seeds)
        tallies += questions.answer(more)
        contestants += more
    return _report(questions, contestants, tallies, timing)


def _controls(
    questions: Questions,
    entrants: Sequence[Contestant],
    full: Tally,
    first: Tally,
    seeds: int,
) -> list[Contestant]:
    backbone, processor = questions.backbone, questions.processor
    plugin = entrants[0].plugin
    assert plugin is not None
    schedule = plugin.schedule
    if plugin.spec.selection == "threshold":
        # what it really kept; its own ratios are only what it was trained towards
        kept = tuple(first.visual[layer] / full.visual[0] for layer in schedule.layers)
        schedule = Schedule(schedule.layers, kept, schedule.num_layers)
    found = schedule_controls(plugin, schedule, backbone.model, seeds)
    found += [blind for entrant in entrants if (blind := blinded(entrant)) is not None]
    ratio = schedule.mean_ratio
    if schedule.layers != (0,):  # else the controls above are these already
        found += input_controls(ratio, backbone.model, schedule.num_layers, seeds)
    tokens = max(1, round(ratio * full.visual[0]))
    small = downsampled_input(tokens, backbone, processor)
    return [blank_image(questions.prepare, processor), *found, *([small] if small else [])]


def _report(
    questions: Questions,
    contestants: Sequence[Contestant],
    tallies: Sequence[Tally],
    timing: Timing,
) -> Report:
    groups: dict[str, list[int]] = {}
    for index, contestant in enumerate(contestants):
        groups.setdefault(contestant.method, []).append(index)
    prepare, samples = questions.prepare, questions.first(timing.batch_size)
    leaders = [contestants[indices[0]] for indices in groups.values()]
    extra = [extra_flops(prepare, leader, questions.backbone, samples[0]) for leader in leaders]
    own = [flops - extra[0] for flops in extra]
    ratios = speedups(prepare, leaders, samples, timing.rounds)
    unreadable = [fault.id for fault in questions.unreadable]
    rows = [
        pooled(method, [tallies[i] for i in indices], tallies[0], flops, speedup, unreadable)
        for (method, indices), flops, speedup in zip(groups.items(), own, ratios)
    ]
    encoder = encoder_flops(prepare, samples[0])
    by_paper = 1 - tallies[1].paper_flops / tallies[0].paper_flops
    return Report(
        rows,
        [
            notes.about_answers(rows[0], questions.batch_size),
            *notes.about_unreadable(rows[0], questions.unreadable),
            notes.about_flops(rows[1], own[1], encoder),
            notes.about_savings(rows[0], rows[1], encoder, by_paper),
            notes.about_timing(questions.backbone, len(samples), timing.rounds),
        ],
    )
