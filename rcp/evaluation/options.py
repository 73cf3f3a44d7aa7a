"""The options of an evaluation; apart from what they lead to: torch takes seconds to load."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rcp.errors import UserError
from rcp.extensions import IMPORT_HELP
from rcp.refusals import Parser, refuse_below_one, refuse_no_file

REPORT = "report.html"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What ``arguments`` say; raises ``UserError`` for what cannot be."""
    parser = Parser(prog="evaluate.py")
    configure(parser)
    options = parser.parse_args(arguments)
    check(options)
    return options


def command(options: argparse.Namespace) -> str:
    """The command line that asks for these answers, without where they and their report go."""
    parser = argparse.ArgumentParser()
    configure(parser)
    words = ["evaluate.py"]
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        if action.dest in ("output", "report") or value == action.default:
            continue
        if isinstance(action, argparse.BooleanOptionalAction):
            words.append(action.option_strings[not value])
        elif isinstance(action, argparse._AppendAction):
            words += [word for each in value for word in (action.option_strings[0], str(each))]
        else:
            values = value if isinstance(value, list) else [value]
            words += [action.option_strings[0], *map(str, values)]
    return shlex.join(words)


def configure(parser: argparse.ArgumentParser) -> None:
    """All options, each explained."""
    add = parser.add_argument
    add("--plugin", type=Path, nargs="+", metavar="DIR",
        help="exported plug-in; several are seeds of one method and share a row")
    add("--pruner", metavar="NAME",
        help="a pruner that needs no training, in place of --plugin (python -m rcp pruners)")
    add("--budget", type=float, metavar="K",
        help="visual tokens, mean over layers; below 1 a share of them: of --pruner, or chosen "
        "among those that the plug-ins were trained for")
    add("--layers", type=int, nargs="+", metavar="L",
        help="with --pruner: 0-based decoder layers that prune (default: as deep as its paper "
        "says, else 0, before the decoder)")
    add("--wiped-from", type=int, metavar="L",
        help="with --pruner: drop all visual tokens that are left at this layer, and spend what "
        "that saves before it (python -m rcp horizon)")
    add("--compare", nargs="+", default=[], metavar="NAME=DIR",
        help="further exported plug-ins, each NAME a row of its own")
    add("--import", dest="imports", type=Path, action="append", default=[], metavar="FILE",
        help=IMPORT_HELP)
    add("--base", metavar="MODEL",
        help="folder or hub id of the frozen model (default: the one the plug-in names)")
    add_data(parser)
    add("--data-root", type=Path, metavar="DIR",
        help="folder with the files of a published set, which --data names (python -m rcp sets); "
        "--data hub:NAME fetches one instead")
    add("--limit", type=int, metavar="N", help="only the first N questions")
    add("--batch-size", type=int, default=32, metavar="B")
    add("--max-new-tokens", type=int, metavar="T",
        help="longest answer (default: the evaluation set's own, else 16)")
    add("--seeds", type=int, default=3, metavar="S", help="draws of each random control")
    add("--controls", action=argparse.BooleanOptionalAction, default=True,
        help="also evaluate the controls and the blank image")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="precision of the base model")
    add("--device", help="where it runs (default: cuda where there is one, else cpu)")
    add("--output", type=Path, default=Path("evaluation.json"), metavar="JSON",
        help="where the rows go, with FILE.samples.parquet and FILE.times.parquet beside; until "
        "then the answers are in FILE.partial, where a run that was killed goes on (default: "
        "%(default)s)")
    add("--report", type=Path, metavar="DIR",
        help=f"also write {REPORT} in this folder: figures, charts, and what survives of images")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The questions, and where their images are."""
    add = parser.add_argument
    add("--data", required=True, metavar="DATA",
        help="LLaVA-style conversation JSON, or a folder that holds one; or a Hugging Face data "
        "set: a folder that save_to_disk wrote, a parquet or arrow file or a folder of them, or "
        "hf:NAME:SPLIT")
    add("--image-folder", type=Path, metavar="DIR",
        help="folder that image paths are relative to (default: the data file's)")


def check(options: argparse.Namespace) -> None:
    """Raise ``UserError`` for options that contradict each other or can be nothing's."""
    if bool(options.plugin) == bool(options.pruner):
        given = "both --plugin and --pruner are" if options.plugin else "neither is"
        raise UserError(
            f"Exactly one of --plugin and --pruner says what to evaluate, but {given} given. Name "
            "a folder written by export.py with --plugin, or a pruner with --pruner and --budget."
        )
    if options.pruner is not None and options.budget is None:
        raise UserError(
            "--pruner needs --budget: unlike a plug-in, a pruner by itself has no budget. Give "
            "the visual tokens to keep, mean over layers, or a share of them below 1."
        )
    for name, option in (("layers", "--layers"), ("wiped_from", "--wiped-from")):
        if options.plugin and getattr(options, name) is not None:
            raise UserError(
                f"{option} says where a --pruner drops tokens, but {options.plugin[0]} has its own "
                f"stages. Leave {option} out, or give a pruner in place of --plugin."
            )
    refuse_below_one(options, "limit", "batch_size", "max_new_tokens", "seeds")
    refuse_no_file(options.output, "--output")
    if options.report is not None:
        refuse_no_file(options.report / REPORT, "--report")
