"""Train the focus module of a model, which says where in a huge image to look closer.

It learns on questions about large images what the model itself attends to; `pyramid --focus` then
asks it in place of the model, of which no decoder layer runs for it.

    %(prog)s --base MODEL --data questions.json --output focus
"""

import argparse
import os
from pathlib import Path

import torch
from tqdm import tqdm

from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.commands import _questions
from rcp.conversations.source import open_conversations
from rcp.errors import UserError
from rcp.folder.read_write import save_plugin
from rcp.pyramid.answer import input_side
from rcp.pyramid.distilling import distilled
from rcp.pyramid.walk import Budget
from rcp.refusals import refuse_below_one, refuse_unwritable


def configure(parser: argparse.ArgumentParser) -> None:
    _questions.base_and_data(parser)
    add, usual = parser.add_argument, Budget()
    add("--output", required=True, type=Path, metavar="FOLDER", help="where it goes")
    add("--limit", type=int, default=1000, metavar="N",
        help="how many questions, one a step (default: %(default)s)")
    add("--learning-rate", type=float, default=2e-3, metavar="R",
        help="of the first step (default: %(default)s)")
    add("--layer", type=int, metavar="L",
        help="decoder layer whose attention is learned, from 0 (default: the middle one)")
    add("--side", type=int, metavar="PIXELS",
        help="of a tile (default: what the model's vision tower is given)")
    add("--across", type=int, default=usual.across, metavar="N",
        help="tiles of the coarsest level's short side, about (default: %(default)s)")
    add("--most-tiles", type=int, default=usual.most_tiles, metavar="N",
        help="of a level that are seen in a step (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "limit", "side", "across", "most_tiles")
    if os.path.lexists(options.output):
        raise UserError(f"'{options.output}' exists already. Name another folder with --output.")
    if not 0 < options.learning_rate < 1:
        raise UserError(
            f"--learning-rate is {options.learning_rate}: give a number between 0 and 1."
        )
    refuse_unwritable(options.output, "--output")
    torch.manual_seed(0)  # the module's first weights, and which tiles of a large level are seen
    dataset = open_conversations(options.data, options.image_folder)
    model, processor = load_base(options.base, options.dtype, options.device)
    side = options.side or input_side(model)
    count = min(options.limit, len(dataset))
    plugin = distilled(
        model, processor, (dataset[n] for n in tqdm(range(count), unit="question")), count,
        layer=len(backbone_for(model).layers) // 2 if options.layer is None else options.layer,
        side=side, budget=Budget(across=options.across, most_tiles=options.most_tiles),
        learning_rate=options.learning_rate,
    )
    save_plugin(plugin, options.output)
    print(f"Written to {options.output}")
