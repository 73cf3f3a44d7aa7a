"""Measure how far dropping moves each layer's answer rows, before and after repair."""

import argparse
import json
from collections.abc import Iterator

from tqdm import tqdm

from rcp.atomic_write import atomic
from rcp.commands import _plugin_on_data
from rcp.conversations import Batch, on_device
from rcp.evaluation.preparation import conversation_batches
from rcp.evaluation.report import shift, tables
from rcp.evaluation.studies.diagnosis import diagnose
from rcp.refusals import refuse_below_one


def configure(parser: argparse.ArgumentParser) -> None:
    _plugin_on_data.configure(parser, "diagnosis.json")
    add = parser.add_argument
    add("--limit", type=int, default=200, metavar="N", help="the first N samples")
    add("--batch-size", type=int, default=16, metavar="B")
    add("--sinks", type=float, default=5.0, metavar="X",
        help="a sink receives more than X times the mean of the question's attention")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "limit", "batch_size")
    found = _plugin_on_data.subject(options)
    values = diagnose(found.model, found.plugin, _batches(found, options), options.sinks)
    print(tables.text(shift.by_layer(values)), end="\n\n")
    print(tables.text(shift.by_stage(values)))
    with atomic(options.output) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n")
    print(f"\n{values['samples']} samples. Written to {options.output}")


def _batches(found: _plugin_on_data.Subject, options: argparse.Namespace) -> Iterator[Batch]:
    batches = conversation_batches(
        found.processor, found.dataset, options.limit, options.batch_size, with_answers=True
    )
    count = min(options.limit, len(found.dataset))
    for batch in tqdm(batches, total=-(-count // options.batch_size), unit="batch"):
        yield on_device(batch, found.model.device)
