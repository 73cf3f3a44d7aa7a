"""Answer a question about a huge image, reading only what matters to the question.

The image is looked at from coarse to fine: of each level the tokens that the question attends to
say which tiles of the next one are read. A TIFF of uncompressed tiles is never held whole.

    %(prog)s --base MODEL --image scene.tif --question "how many ships are in the harbour?"
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.folder.read_write import load_plugin
from rcp.pyramid.answer import answer, input_side
from rcp.pyramid.attention import OwnAttention, Scorer
from rcp.pyramid.focus import Focus
from rcp.pyramid.walk import Budget
from rcp.pyramid.windows import open_windows
from rcp.refusals import refuse_below_one


def configure(parser: argparse.ArgumentParser) -> None:
    add, usual = parser.add_argument, Budget()
    add("--base", required=True, metavar="MODEL", help="folder or hub id of the frozen model")
    add("--image", required=True, type=Path, metavar="FILE")
    add("--question", required=True, metavar="TEXT")
    says = parser.add_mutually_exclusive_group()
    says.add_argument("--focus", metavar="FOLDER",
                      help="focus module that says what matters (default: the model itself)")
    says.add_argument("--layer", type=int, metavar="L",
                      help="decoder layer whose attention does, from 0 (default: the middle one)")
    add("--side", type=int, metavar="PIXELS",
        help="of a tile (default: what the model's vision tower is given)")
    add("--across", type=int, default=usual.across, metavar="N",
        help="tiles of the coarsest level's short side, about (default: %(default)s)")
    add("--share", type=float, default=usual.share, metavar="A",
        help="of a level's tokens that say where to look closer (default: %(default)s)")
    add("--most-tiles", type=int, default=usual.most_tiles, metavar="N",
        help="no level is looked at that takes more (default: %(default)s)")
    add("--tiles", type=int, default=1, metavar="N",
        help="of the last level that the answer is made of, as images of one prompt "
        "(default: %(default)s)")
    add("--max-new-tokens", type=int, default=32, metavar="T", help="longest answer")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="of the base model")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(options: argparse.Namespace) -> None:
    refuse_below_one(options, "side", "across", "most_tiles", "tiles", "max_new_tokens")
    budget = Budget(options.across, options.share, options.most_tiles)
    with open_windows(options.image) as image:
        model, processor = load_base(options.base, options.dtype, options.device)
        side = options.side or input_side(model)
        found = answer(
            model, processor, image, options.question, _scorer(model, options),
            side=side, budget=budget, tiles=options.tiles, max_new_tokens=options.max_new_tokens,
        )
    for look in found.looks:
        level = look.level
        print(f"{len(look.tiles)} of {level.rows} x {level.columns} tiles, {look.tokens} tokens, "
              f"{int(look.key.sum())} of them key tokens")
    print(f"{found.pixels_encoded} pixels encoded, {found.pixels_read} read; {found.tokens_kept} "
          f"of {found.tokens_encoded} tokens kept")
    print(found.text)


def _scorer(model: Any, options: argparse.Namespace) -> Scorer:
    if options.focus is not None:
        return Focus(load_plugin(options.focus))
    middle = len(backbone_for(model).layers) // 2
    return OwnAttention(middle if options.layer is None else options.layer)
