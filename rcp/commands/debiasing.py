"""Fit how attention to visual tokens grows along the sequence, for the pruner `debiased`."""

import argparse
from dataclasses import asdict

from rcp.backbones import backbone_for
from rcp.commands import _questions
from rcp.evaluation.studies.attention_trend import attention_trends
from rcp.refusals import refuse_layers


def configure(parser: argparse.ArgumentParser) -> None:
    _questions.configure(parser)
    parser.add_argument(
        "--layers", type=int, nargs="+", required=True, metavar="L",
        help="0-based decoder layers whose attention prunes",
    )


def run(options: argparse.Namespace) -> None:
    model, batches = _questions.load(options, with_answers=False)
    refuse_layers(options.layers, len(backbone_for(model).layers))
    trends = attention_trends(model, batches, options.layers)
    for layer, trend in trends.items():
        print(f"layer {layer}: f(x) = {trend.scale:.3f} exp({trend.growth:.3f} x)  "
              f"-> arguments: {{growth: {trend.growth:.3f}}}")
    _questions.write({str(layer): asdict(found) for layer, found in trends.items()}, options.output)
