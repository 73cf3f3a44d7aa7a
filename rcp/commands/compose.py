"""Write a plug-in folder of methods that need no training, one a stage.

Each --stage is LAYER:METHOD:KEEP or LAYER:METHOD:KEEP:NAME=VALUE,... with KEEP the visual tokens
alive from that layer on: above 1 a number of tokens, else a share, 0 for none. For example, on a
model of 576 tokens:

    %(prog)s --base MODEL --output my-plugin \\
        --stage 0:divprune:192 --stage 20:random:64:seed=1 --stage 28:random:0
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.choosing.schedule import ratio_of
from rcp.errors import UserError
from rcp.extensions import IMPORT_HELP, import_files
from rcp.folder.read_write import save_plugin
from rcp.plugin import Plugin, PluginSpec, StageSpec


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base", required=True, metavar="MODEL", help="folder or hub id of the frozen model")
    add("--stage", action="append", required=True, metavar="STAGE", help="see above; repeatable")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write; must be new")
    add("--import", dest="imports", type=Path, action="append", default=[], metavar="FILE",
        help=IMPORT_HELP)


def run(options: argparse.Namespace) -> None:
    import_files(options.imports)
    model, _ = load_base(options.base, "float32", "cpu")
    tokens = backbone_for(model).visual_tokens
    spec = PluginSpec(stages=[_stage(text, tokens) for text in options.stage])
    plugin = Plugin.for_model(spec, model)
    if untrained := [name for name, _ in plugin.named_parameters()]:
        raise UserError(
            f"These stages hold weights to train, first '{untrained[0]}', and a plug-in composed "
            f"here would keep them random. Train it with train.py, or choose methods without."
        )
    save_plugin(plugin, options.output)
    print(f"{options.output}: {plugin.mean_ratio:.2%} of the visual tokens, mean over layers")


def _stage(text: str, tokens: int | None) -> StageSpec:
    parts = text.split(":", 3)
    try:
        layer, method, keep = int(parts[0]), parts[1], float(parts[2])
    except (IndexError, ValueError):
        raise UserError(
            f"--stage {text} is none: write LAYER:METHOD:KEEP, as in 0:divprune:64, and after "
            f"another colon NAME=VALUE,... where the method takes arguments."
        ) from None
    if keep > 1 and tokens is None:
        raise UserError(
            f"--stage {text} keeps {keep:g} tokens, but how many this model has varies with the "
            f"image. Give a share between 0 and 1."
        )
    ratio = ratio_of(keep, tokens) if keep > 1 and tokens is not None else keep
    arguments = dict(_argument(text, pair) for pair in parts[3].split(",")) if parts[3:] else {}
    return StageSpec(layer, ratio, method, arguments)


def _argument(text: str, pair: str) -> tuple[str, Any]:
    name, separator, value = pair.partition("=")
    if not (name and separator):
        raise UserError(f"--stage {text}: '{pair}' is not an argument. Write NAME=VALUE.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
