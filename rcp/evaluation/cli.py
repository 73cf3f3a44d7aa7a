"""One evaluation: what is done once its options are read."""

import argparse
from collections.abc import Sequence

import torch

from rcp.backbones import backbone_for
from rcp.choosing.schedule import mean_ratio_of
from rcp.conversations.source import open_conversations
from rcp.evaluation.comparison import Report, compare
from rcp.evaluation.entrants import (
    compared,
    exported,
    load_base_of,
    refuse_shared_names,
    training_free,
)
from rcp.evaluation.generation import Questions
from rcp.evaluation.options import parse
from rcp.evaluation.report import tables
from rcp.evaluation.report.page.page import write_report
from rcp.evaluation.report.rows import write_rows
from rcp.extensions import import_files


def run(arguments: Sequence[str]) -> Report:
    """Evaluate as the ``arguments`` say, print the table and write the rows.

    Raises ``UserError`` for what cannot be; then nothing is written.
    """
    return evaluate(parse(arguments))


def evaluate(options: argparse.Namespace) -> Report:
    """As :func:`run`, of options that have been checked."""
    import_files(options.imports)
    dataset = open_conversations(options.data, options.image_folder)
    entrants = exported(options.plugin) if options.plugin else []
    others = compared(options.compare)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
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
        max_new_tokens=options.max_new_tokens,
    )
    report = compare(questions, entrants, others, controls=options.controls, seeds=options.seeds)
    print(tables.text(tables.summary(report.rows)), end="\n\n")
    print(tables.text(tables.by_type(report.rows)), end="\n\n")
    print("\n".join(report.notes))
    write_rows(report.rows, options.output)
    print(f"Rows written to {options.output}")
    if options.report is not None:
        print(f"Report written to {write_report([options.output], options.report)}")
    return report
