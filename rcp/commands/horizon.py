"""Measure from which decoder layer on visual tokens tell a model nothing more."""

import argparse

from rcp.commands import _questions
from rcp.evaluation.studies.horizon import horizon, information_by_layer


def configure(parser: argparse.ArgumentParser) -> None:
    _questions.configure(parser)
    parser.add_argument(
        "--tolerance", type=float, default=0.01, metavar="P",
        help="probability of the right answer that may be left (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    model, batches = _questions.load(options, with_answers=True)
    information = information_by_layer(model, batches)
    found = horizon(information, options.tolerance)
    print("layer  p(answer) lost if all visual tokens go here")
    for layer, value in enumerate(information):
        print(f"{layer:>5}  {value:.4f}{'  horizon' if layer == found else ''}")
    if found == len(information):
        print(f"No layer is below {options.tolerance}: nothing can go for free.")
    _questions.write({"horizon": found, "information": information}, options.output)
