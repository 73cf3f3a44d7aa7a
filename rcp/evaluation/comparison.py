"""A plug-in beside the full model and its controls: one call, one row a method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

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
from rcp.evaluation.keeping import InMemory, Keeping
from rcp.evaluation.metrics.tally import Answered, Tally
from rcp.evaluation.paired import over_seeds
from rcp.evaluation.prefill import encoder_flops, plugin_flops, speedups
from rcp.evaluation.report import notes
from rcp.evaluation.report.rows import ResultRow, pooled


@dataclass(frozen=True)
class Timing:
    """How prefills are timed: samples a batch, and rounds over which the median is taken."""

    batch_size: int = 8
    rounds: int = 9


@dataclass(frozen=True)
class Report:
    """``rows``, the full model's first; ``notes``: sentences that belong under the table;
    ``answered``: what each contestant answered, in the order of the rows."""

    rows: list[ResultRow]
    notes: list[str]
    answered: list[Answered] = field(default_factory=list)


@dataclass(frozen=True)
class Round:
    """Contestants who answer side by side, and where their answers are."""

    questions: Questions
    contestants: list[Contestant]
    kept: Keeping

    @cached_property
    def tallies(self) -> list[Tally]:
        """One for each; where several processes answer, when the last of them has."""
        return self.questions.tallies(self.contestants, self.kept)


def compare(
    questions: Questions,
    entrants: Sequence[Contestant],
    others: Sequence[Contestant] = (),
    *,
    controls: bool = True,
    seeds: int = 3,
    timing: Timing = Timing(),
    keeping: Callable[[str], Keeping] = lambda name: InMemory(),
) -> Report:
    """Answer ``questions`` with the full model, ``entrants``, ``others`` and the controls.

    ``entrants`` are the seeds of one method, ``others`` further plug-ins to set beside it. With
    ``controls`` come the blank image, and at the entrants' schedule and at their mean number of
    tokens what :mod:`rcp.evaluation.contestants` and :mod:`rcp.evaluation.images` describe.
    ``keeping`` says where the answers of a round of that name go.
    """
    rounds = answer(questions, entrants, others, controls, seeds, keeping)
    contestants = [contestant for each in rounds for contestant in each.contestants]
    tallies = [tally for each in rounds for tally in each.tallies]
    return _report(questions, contestants, tallies, timing)


def answer(
    questions: Questions,
    entrants: Sequence[Contestant],
    others: Sequence[Contestant],
    controls: bool,
    seeds: int,
    keeping: Callable[[str], Keeping],
) -> list[Round]:
    """Have everybody's answers kept, those of this process's share; as :func:`compare`.

    What the controls are depends on what the entrants kept: they answer in a round of their own.
    """
    rounds = [Round(questions, [Contestant(FULL), *entrants, *others], keeping("methods"))]
    questions.answer_missing(rounds[0].contestants, rounds[0].kept)
    if controls:
        full, first, *_ = rounds[0].tallies
        more = _controls(questions, entrants, full, first, seeds)
        rounds.append(Round(questions, more, keeping("controls")))
        questions.answer_missing(more, rounds[1].kept)
    return rounds


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
    if plugin.spec.selection != "top_k" or entrants[0].encodes:
        # what it really kept; its own ratios are only what it was trained towards, or rounded up
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
    scores = {
        method: over_seeds([tallies[index].scores for index in indices])
        for method, indices in groups.items()
    }
    prepare, samples = questions.prepare, questions.first(timing.batch_size)
    leaders = [contestants[indices[0]] for indices in groups.values()]
    own = [plugin_flops(prepare, leader, samples[0]) for leader in leaders]
    ratios = speedups(prepare, leaders, samples, timing.rounds)
    unreadable = [fault.id for fault in questions.unreadable]
    rows = [
        pooled(method, [tallies[i] for i in indices], tallies[0], flops, speedup, unreadable)
        for (method, indices), flops, speedup in zip(groups.items(), own, ratios)
    ]
    encoders = [encoder_flops(prepare, leader, samples[0]) for leader in leaders[:2]]
    by_paper = 1 - tallies[1].paper_flops / tallies[0].paper_flops
    return Report(
        rows,
        [
            notes.about_answers(rows[0], questions.batch_size),
            *notes.about_unreadable(rows[0], questions.unreadable),
            notes.about_pairs(),
            *notes.about_random(rows, scores),
            *notes.about_blank(rows),
            notes.about_flops(rows[1], own[1], encoders[1]),
            notes.about_savings(rows[0], rows[1], encoders, by_paper),
            notes.about_timing(questions.backbone, len(samples), timing.rounds),
        ],
        [
            Answered(method, seed, tallies[index])
            for method, indices in groups.items()
            for seed, index in enumerate(indices)
        ],
    )
