"""Measure how far dropping moves each layer's answer rows, before and after repair."""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from rcp.commands import _plugin_on_data
from rcp.conversations import Batch
from rcp.errors import UserError
from rcp.evaluation import tables
from rcp.evaluation.diagnosis import diagnose
from rcp.evaluation.preparation import conversation_batches


def configure(parser: argparse.ArgumentParser) -> None:
    _plugin_on_data.configure(parser, "diagnosis.json")
    add = parser.add_argument
    add("--limit", type=int, default=200, metavar="N", help="the first N samples")
    add("--batch-size", type=int, default=16, metavar="B")
    add("--sinks", type=float, default=5.0, metavar="X",
        help="a sink receives more than X times the mean of the question's attention")


def run(options: argparse.Namespace) -> None:
    for name in ("limit", "batch_size"):
        if getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} is {getattr(options, name)}: give a whole number of at least 1."
            )
    found = _plugin_on_data.subject(options)
    values = diagnose(found.model, found.plugin, _batches(found, options), options.sinks)
    print(tables.text(_by_layer(values)), end="\n\n")
    print(tables.text(_by_stage(values)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.output.with_name(f".{options.output.name}-writing")
    unfinished.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(unfinished, options.output)
    print(f"\n{values['samples']} samples. Written to {options.output}")


def _batches(found: _plugin_on_data.Subject, options: argparse.Namespace) -> Iterator[Batch]:
    device = found.model.device
    batches = conversation_batches(
        found.processor, found.dataset, options.limit, options.batch_size, with_answers=True
    )
    count = min(options.limit, len(found.dataset))
    for batch in tqdm(batches, total=-(-count // options.batch_size), unit="batch"):
        batch["inputs"] = {name: value.to(device) for name, value in batch["inputs"].items()}
        batch["labels"] = batch["labels"].to(device)
        yield batch


def _by_layer(values: dict[str, Any]) -> tables.Cells:
    gaps = ("mean_gap", "variance_gap", "w2")
    header = ["layer", *gaps, *(f"{gap} repaired" for gap in gaps), "correlation with loss"]
    return [header] + [
        [
            str(line["layer"]),
            *(f"{line[when][gap]:.4f}" for when in ("before", "after") for gap in gaps),
            f"{line['correlation_with_loss']:.2f}",
        ]
        for line in values["layers"]
    ]


def _by_stage(values: dict[str, Any]) -> tables.Cells:
    return [["stage at layer", "survivors that are sinks %", "sinks that survive %"]] + [
        [
            str(line["layer"]),
            f"{100 * line['survivors_that_are_sinks']:.1f}",
            f"{100 * line['sinks_that_survive']:.1f}",
        ]
        for line in values["stages"]
    ]
