"""What commands share that look at an exported plug-in on the samples of a data set."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rcp.backbones import backbone_for
from rcp.choosing.schedule import mean_ratio_of
from rcp.conversations import ConversationDataset
from rcp.conversations.source import open_conversations
from rcp.evaluation.entrants import load_base_of
from rcp.evaluation.options import add_data
from rcp.folder.read_write import load_plugin
from rcp.plugin import Plugin
from rcp.refusals import refuse_no_file


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    model: Any
    processor: Any
    plugin: Plugin
    dataset: ConversationDataset


def configure(parser: argparse.ArgumentParser, output: str | None = None) -> None:
    """Options that name the plug-in, the data and, where ``output`` is one, the file to write."""
    add = parser.add_argument
    add("--plugin", type=Path, required=True, metavar="DIR", help="exported plug-in")
    add_data(parser)
    add("--base", metavar="MODEL",
        help="folder or hub id of the frozen model (default: the one the plug-in names)")
    add("--budget", type=float, metavar="K",
        help="among those the plug-in was trained for: visual tokens, mean over layers; below 1 a "
        "share of them")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base model")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    if output is not None:
        add("--output", type=Path, default=Path(output),
            help="file to write (default: %(default)s)")


def subject(options: argparse.Namespace) -> Subject:
    """Read all of it; raises ``UserError`` for what cannot be read or does not belong together."""
    refuse_no_file(options.output, "--output")
    plugin = load_plugin(options.plugin)
    dataset = open_conversations(options.data, options.image_folder)
    model, processor = load_base_of(plugin, options.base, options.dtype, options.device)
    if options.budget is not None:
        plugin = plugin.at_budget(mean_ratio_of(options.budget, backbone_for(model).visual_tokens))
    return Subject(model, processor, plugin, dataset)
