"""Give each sample a budget of its own, at the same mean: cuts on a plug-in's scores.

On the first --limit questions of --data, which should be none that you evaluate on, those cuts are
sought under which the plug-in keeps as many tokens in the mean as its fixed counts do. A sample
whose scores fall off steeply then keeps few, one with many tokens near the best keeps many. A
plug-in that has learned how many (selection: learned) keeps its own bounds, and is only levelled.

    %(prog)s --plugin my-plugin --data validation.json --output my-calibrated-plugin
"""

import argparse
import os
from pathlib import Path

from rcp.commands import _plugin_on_data
from rcp.errors import UserError
from rcp.evaluation.preparation import conversation_batches
from rcp.evaluation.studies.calibration import calibrated
from rcp.folder.read_write import save_plugin
from rcp.refusals import refuse_below_one, refuse_unwritable


def configure(parser: argparse.ArgumentParser) -> None:
    _plugin_on_data.configure(parser)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write; must be new")
    add("--limit", type=int, default=400, metavar="N", help="how many questions (%(default)s)")
    add("--batch-size", type=int, default=16, metavar="B")
    add("--fewest", type=float, default=0.25, metavar="F",
        help="least count of a sample, as a multiple of the mean (default: %(default)s)")
    add("--most", type=float, default=4.0, metavar="F", help="largest, likewise (%(default)s)")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "limit", "batch_size")
    if os.path.lexists(options.output):
        raise UserError(
            f"'{options.output}' exists already. Choose another folder, or remove it first."
        )
    refuse_unwritable(options.output, "--output")
    found = _plugin_on_data.subject(options)
    batches = list(conversation_batches(
        found.processor, found.dataset, options.limit, options.batch_size, with_answers=False
    ))
    plugin = calibrated(found.model, found.plugin, batches, options.fewest, options.most)
    save_plugin(plugin, options.output)
    calibration, count = plugin.spec.calibration, plugin.spec.count
    name, values = "level", [] if count is None else count.levels or []
    if calibration is not None:
        name, values = "gap", calibration.gaps
    print(f"layer    mean %  {name:>9}")
    for stage, value in zip(plugin.spec.stages, values):
        print(f"{stage.layer:5}  {100 * stage.ratio:8.2f}  {value:9.4g}")
    print(f"Written to {options.output}")
