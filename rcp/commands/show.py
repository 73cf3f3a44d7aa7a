"""Draw which visual tokens survive each stage, with question, full and pruned answer."""

import argparse

from rcp.commands import _plugin_on_data
from rcp.errors import UserError
from rcp.evaluation.studies.drawing import draw
from rcp.evaluation.studies.survivors import survivors
from rcp.quoting import quoted
from rcp.refusals import refuse_below_one


def configure(parser: argparse.ArgumentParser) -> None:
    _plugin_on_data.configure(parser, "survivors.png")
    add = parser.add_argument
    add("--samples", type=int, default=4, metavar="N", help="the first N samples")
    add("--ids", nargs="+", metavar="ID", help="these samples instead")
    add("--max-new-tokens", type=int, default=16, metavar="T", help="longest answer")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "samples", "max_new_tokens")
    found = _plugin_on_data.subject(options)
    numbers = {sample.id: number for number, sample in enumerate(found.dataset.samples)}
    ids = options.ids or list(numbers)[: options.samples]
    for name in ids:
        if name not in numbers:
            raise UserError(
                f"There is no sample {quoted(name)} in '{found.dataset.path}'; its first is "
                f"{quoted(found.dataset.samples[0].id)}. Name others with --ids."
            )
    items = [found.dataset[numbers[name]] for name in ids]
    answered = [
        survivors(found.model, found.processor, found.plugin, item, options.max_new_tokens)
        for item in items
    ]
    draw(answered, options.output)
    for one in answered:
        print(f"{one.id}: {one.question!r} full {one.full!r} pruned {one.pruned!r}")
    print(f"Drawn to {options.output}")
