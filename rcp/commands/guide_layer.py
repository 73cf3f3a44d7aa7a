"""Rank a model's layers by how well the top-k of their attention keeps the answers."""

import argparse
from pathlib import Path

from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.choosing.schedule import mean_ratio_of
from rcp.commands import _questions
from rcp.conversations.source import open_conversations
from rcp.evaluation.generation import Questions
from rcp.evaluation.studies.guide_layers import guide_scores, plot_guide_scores
from rcp.refusals import refuse_below_one, refuse_layers, refuse_no_file


def configure(parser: argparse.ArgumentParser) -> None:
    _questions.base_and_data(parser)
    add = parser.add_argument
    add("--budget", required=True, type=float, metavar="K",
        help="visual tokens that enter the decoder; below 1 a share of them")
    add("--layers", type=int, nargs="+", metavar="L", help="0-based layers (default: all)")
    add("--limit", type=int, default=200, metavar="N",
        help="only the first N questions (default: %(default)s)")
    add("--batch-size", type=int, default=32, metavar="B")
    add("--max-new-tokens", type=int, default=16, metavar="T", help="longest answer")
    add("--plot", type=Path, default=Path("guide_layers.png"), metavar="PNG",
        help="where the plot goes (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "limit", "batch_size", "max_new_tokens")
    refuse_no_file(options.plot, "--plot")
    dataset = open_conversations(options.data, options.image_folder)
    model, processor = load_base(options.base, options.dtype, options.device)
    backbone = backbone_for(model)
    depth = len(backbone.layers)
    layers = range(depth) if options.layers is None else options.layers
    refuse_layers(layers, depth)
    questions = Questions(
        backbone,
        processor,
        dataset,
        limit=options.limit,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
    )
    ratio = mean_ratio_of(options.budget, backbone.visual_tokens)
    scores = guide_scores(questions, ratio, layers)
    print("layer  accuracy %  retained %")
    for score in scores:
        print(f"{score.layer:5}  {100 * score.accuracy:10.1f}  {100 * score.retained:10.1f}")
    plot_guide_scores(scores, options.plot)
    print(f"Plot written to {options.plot}")
