"""Arguments of the measurements that run a base model over questions, and what they stand for."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rcp.atomic_write import atomic
from rcp.base_model.loading import load_base
from rcp.conversations import Batch
from rcp.conversations.source import open_conversations
from rcp.evaluation.options import add_data
from rcp.evaluation.preparation import conversation_batches
from rcp.refusals import refuse_below_one, refuse_no_file


def base_and_data(parser: argparse.ArgumentParser) -> None:
    """What to run on what."""
    add = parser.add_argument
    add("--base", required=True, metavar="MODEL", help="folder or hub id of the frozen model")
    add_data(parser)
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="of the base model")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def configure(parser: argparse.ArgumentParser) -> None:
    """Likewise, how much of it, and where the result goes."""
    base_and_data(parser)
    add = parser.add_argument
    add("--limit", type=int, default=100, metavar="N", help="how many questions (default: 100)")
    add("--batch-size", type=int, default=16, metavar="B")
    add("--output", type=Path, metavar="JSON", help="also write what is printed there")


def load(options: argparse.Namespace, with_answers: bool) -> tuple[Any, Iterator[Batch]]:
    """The model, and its batches: prompts, with their answers and labels if asked for."""
    refuse_below_one(options, "limit", "batch_size")
    if options.output is not None:
        refuse_no_file(options.output, "--output")
    dataset = open_conversations(options.data, options.image_folder)
    model, processor = load_base(options.base, options.dtype, options.device)
    return model, conversation_batches(
        processor, dataset, options.limit, options.batch_size, with_answers=with_answers
    )


def write(result: dict[str, object], path: Path | None) -> None:
    """``result`` as JSON, if a path is given."""
    if path is not None:
        with atomic(path) as unfinished:
            unfinished.write_text(json.dumps(result, indent=2) + "\n")
