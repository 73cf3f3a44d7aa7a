"""Search how much each stage of a method that needs no training should keep, at one budget.

What is sought is the schedule under which the last hidden state at the end of the prompt is most
like the full model's, on half of the first --samples of --data. The plug-in is written with it if
it does better than the usual one on the other half, too, by more than the error; else with the
usual one. That is no promise of better answers: evaluate it before you use it. For example:

    %(prog)s --pruner vflowopt --base MODEL --data questions.json \\
        --budget 64 --argument alpha=0..20 --argument cell=2..8 --output my-plugin
"""

import argparse
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rcp.base_model.loading import load_base
from rcp.choosing.schedule import Schedule
from rcp.commands import _questions
from rcp.commands._ranges import ranges_of
from rcp.conversations.source import open_conversations
from rcp.errors import UserError
from rcp.evaluation.entrants import training_free
from rcp.evaluation.preparation import conversation_batches
from rcp.evaluation.studies.schedule_search import (
    Range,
    Trial,
    agreement,
    confirmed,
    cosines,
    search,
    under,
)
from rcp.extensions import IMPORT_HELP, import_files
from rcp.folder.read_write import save_plugin
from rcp.refusals import refuse_below_one, refuse_unwritable


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--pruner", required=True, metavar="NAME",
        help="a pruner that needs no training (python -m rcp pruners)")
    _questions.base_and_data(parser)
    add("--layers", type=int, nargs="+", metavar="L",
        help="0-based decoder layers that prune (default: as deep as the pruner's paper says)")
    add("--budget", type=float, required=True, metavar="K",
        help="visual tokens, mean over layers; below 1 a share of them")
    add("--wiped-from", type=int, metavar="L",
        help="drop all visual tokens that are left at this layer, and spend what that saves "
        "before it (python -m rcp horizon)")
    add("--argument", dest="arguments", action="append", default=[], metavar="NAME=LOW..HIGH",
        help="a number that the pruner takes, to be searched as well; repeatable")
    add("--trials", type=int, default=30, metavar="T",
        help="schedules to try, the usual one first (default: %(default)s)")
    add("--samples", type=int, default=128, metavar="N",
        help="the first N prompts: half to try them on, half to judge what was found "
        "(default: %(default)s)")
    add("--batch-size", type=int, default=16, metavar="B")
    add("--seed", type=int, default=0, metavar="S", help="of the search (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write; must be new")
    add("--import", dest="imports", type=Path, action="append", default=[], metavar="FILE",
        help=IMPORT_HELP)


def run(options: argparse.Namespace) -> None:
    _refuse(options)
    import_files(options.imports)
    ranges = ranges_of(options.pruner, options.arguments)
    dataset = open_conversations(options.data, options.image_folder)
    model, processor = load_base(options.base, options.dtype, options.device)
    (entrant,) = training_free(
        options.pruner, options.budget, options.layers, model, options.wiped_from
    )
    plugin = entrant.plugin
    assert plugin is not None
    size = min(options.batch_size, -(-options.samples // 2))
    batches = list(conversation_batches(
        processor, dataset, options.samples, size, with_answers=False
    ))
    if len(batches) < 2:
        raise UserError(
            "One batch of prompts can be read, and what is found on it would be judged by nothing. "
            "Give two samples or more, and a --batch-size of at most half of them."
        )
    cosine = agreement(model, plugin, batches[::2])
    with tqdm(total=options.trials, unit="trial") as progress:

        def counted(schedule: Schedule, **arguments: Any) -> float:
            value = cosine(schedule, **arguments)
            progress.update()
            return value

        tried = search(counted, plugin.schedule, options.trials, options.seed, ranges)
    best = max(tried, key=lambda trial: trial.value)
    chosen = confirmed(tried[0], best, cosines(model, plugin, batches[1::2]))
    save_plugin(under(plugin, chosen.schedule, chosen.arguments, model), options.output)
    _tell(tried[0], chosen, ranges)
    if chosen is not best:
        print(f"The best trial, {best.value:.4f}, does no better on other samples: the start stays")
    print(f"Written to {options.output}")


def _refuse(options: argparse.Namespace) -> None:
    """Raise ``UserError`` for what need not wait for the model."""
    refuse_below_one(options, "trials", "samples", "batch_size")
    if find_spec("optuna") is None:
        raise UserError("optuna, which searches, is not installed here: `pip install rcp[search]`.")
    if os.path.lexists(options.output):
        raise UserError(
            f"'{options.output}' exists already. Choose another folder, or remove it first."
        )
    refuse_unwritable(options.output, "--output")


def _tell(start: Trial, best: Trial, ranges: Mapping[str, Range]) -> None:
    print("layer    start %    found %")
    stages = zip(start.schedule.layers, start.schedule.ratios, best.schedule.ratios)
    for layer, before, after in stages:
        print(f"{layer:5}  {100 * before:9.2f}  {100 * after:9.2f}")
    means = (100 * trial.schedule.mean_ratio for trial in (start, best))
    print("mean   {:9.2f}  {:9.2f}".format(*means))
    for name, given in ranges.items():
        found = best.arguments.get(name, given.usual)
        print(f"{name}: {given.usual:g} at the start, found {found:g}")
    print(f"cosine {start.value:9.4f}  {best.value:9.4f}")
