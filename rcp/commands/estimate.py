"""Tell what a training will take before it starts: memory, tokens, FLOPs, KV and teacher cache.

Reads the configuration as train.py does, overrides such as --model.plugin.budget 32 included, and
the base's config.json; needs no weights and no data.
"""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """The configuration, and what it does not say: the length of texts and the machine."""
    parser.set_defaults(overrides=[])
    add = parser.add_argument
    add("--config", type=Path, required=True, help="configuration of train.py")
    add("--base", metavar="MODEL", help="folder or hub id, in place of the configuration's")
    add("--visual-tokens", type=int, metavar="N",
        help="visual tokens of a sample (default: an image's, where that number is fixed)")
    add("--text-tokens", type=int, default=64, metavar="T", help="text tokens of a sample")
    add("--answer-tokens", type=int, default=8, metavar="A", help="rows of it with logits")
    add("--samples", type=int, default=10_000, metavar="N",
        help="samples to train on, whose teacher may be kept (default: 10000)")
    add("--gpu-memory", type=float, metavar="GIB",
        help="memory of one GPU (default: that of the present one)")
    add("--devices", type=int, default=1, metavar="G", help="GPUs in all, over all nodes")


def run(options: argparse.Namespace) -> None:
    from rcp.training.estimate.planning import plan

    print("\n".join(plan(options)))
