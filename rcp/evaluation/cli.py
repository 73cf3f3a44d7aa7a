"""One evaluation: what is done once its options are read."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

import torch

from rcp.backbones import backbone_for
from rcp.choosing.schedule import mean_ratio_of
from rcp.errors import UserError
from rcp.evaluation import provenance
from rcp.evaluation.comparison import Report, answer, compare
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.entrants import (
    compared,
    exported,
    load_base_of,
    refuse_shared_names,
    training_free,
)
from rcp.evaluation.generation import NothingReadable, Questions
from rcp.evaluation.options import parse
from rcp.evaluation.report import tables
from rcp.evaluation.report.rows import beside, write_rows
from rcp.evaluation.sets.door import open_questions
from rcp.evaluation.share import Share
from rcp.extensions import import_files


def run(arguments: Sequence[str]) -> Report | None:
    """Evaluate as the ``arguments`` say, print the table and write the results.

    Of several processes that torchrun starts, each answers a share of the questions, in files that
    all of them see; the first one reports for all, the others return None. Raises ``UserError``
    for what cannot be; then there are no results. What was answered before a process was killed
    is not asked again.
    """
    return evaluate(parse(arguments))


def evaluate(options: argparse.Namespace) -> Report | None:
    """As :func:`run`, of options that have been checked."""
    share = Share.of_environment()
    import_files(options.imports)
    dataset, published = open_questions(options.data, options.data_root, options.image_folder)
    entrants = exported(options.plugin) if options.plugin else []
    others = compared(options.compare)
    device = options.device or _device(share)
    first = entrants[0].plugin if entrants else None
    model, processor = load_base_of(first, options.base, options.dtype, device)
    if options.pruner:
        entrants = training_free(
            options.pruner, options.budget, options.layers, model, options.wiped_from
        )
    elif options.budget is not None:
        ratio = mean_ratio_of(options.budget, backbone_for(model).visual_tokens)
        entrants = [contestant.at_budget(ratio) for contestant in entrants]
        others = [contestant.at_budget(ratio) for contestant in others]
    refuse_shared_names(entrants, others, options.controls)
    for contestant in [*entrants, *others]:
        with contestant.attached(model):  # refuses another base before the work begins
            pass
    questions = Questions(
        backbone_for(model),
        processor,
        dataset,
        limit=options.limit,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens or (published.max_new_tokens if published else 16),
        scoring=published,
    )
    if find_spec("pyarrow") is None:
        return _rows_alone(options, questions, entrants, others, share)
    return _results(options, questions, entrants, others, share)


def _device(share: Share) -> str:
    """Each process of a machine has a device of its own, where there are any."""
    return f"cuda:{share.local_rank}" if torch.cuda.is_available() else "cpu"


def _rows_alone(
    options: argparse.Namespace,
    questions: Questions,
    entrants: Sequence[Contestant],
    others: Sequence[Contestant],
    share: Share,
) -> Report:
    """Where nothing can keep answers: on a bare machine with a GPU, there may be no pyarrow."""
    if share.ranks > 1 or options.report is not None:
        wanted = "--report" if share.ranks == 1 else "torchrun"
        raise UserError(
            f"{wanted} needs pyarrow, in whose files answers are kept, and it is not installed. "
            "Install it, or leave that out: the rows alone can do without."
        )
    report = compare(questions, entrants, others, controls=options.controls, seeds=options.seeds)
    _show(report)
    write_rows(report.rows, options.output)
    print(f"Rows written to {options.output}; answers are kept where pyarrow is installed")
    return report


def _results(
    options: argparse.Namespace,
    questions: Questions,
    entrants: Sequence[Contestant],
    others: Sequence[Contestant],
    share: Share,
) -> Report | None:
    """Answers, kept until all that is made of them is written."""
    from rcp.evaluation.unfinished import Unfinished  # brings pyarrow

    asked = provenance.asked(options, questions, [*entrants, *others])
    unfinished = Unfinished(beside(options.output, "partial"), asked, share)
    if not share.first:
        answer(questions, entrants, others, options.controls, options.seeds, unfinished.round)
        share.meet()
        return None
    try:
        report = compare(
            questions,
            entrants,
            others,
            controls=options.controls,
            seeds=options.seeds,
            keeping=unfinished.round,
        )
    except NothingReadable:
        unfinished.remove()
        raise
    _show(report)
    _write(report, options, questions)
    share.meet()
    unfinished.remove()
    return report


def _show(report: Report) -> None:
    print(tables.text(tables.summary(report.rows)), end="\n\n")
    print(tables.text(tables.by_type(report.rows)), end="\n\n")
    print("\n".join(report.notes))


def _write(report: Report, options: argparse.Namespace, questions: Questions) -> None:
    """The rows last: where they are, all is."""
    from rcp.evaluation.report.page.page import write_report  # bring pyarrow
    from rcp.evaluation.report.samples import write_samples, write_times

    samples, times = (beside(options.output, f"{what}.parquet") for what in ("samples", "times"))
    metadata = provenance.recorded(options, questions, report.rows)
    write_samples(report.answered, questions.dataset.source.folder, metadata, samples)
    write_times(report.answered, metadata, times)
    write_rows(report.rows, options.output)
    print(f"Rows written to {options.output}, answers to {samples} and {times}")
    if options.report is not None:
        print(f"Report written to {write_report([options.output], options.report)}")
