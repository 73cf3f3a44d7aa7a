"""Train a plug-in, as a configuration says.

Every field of it can be overridden, as in --model.plugin.budget 32.
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Nothing: every argument, --help too, is for the parser of trainings, which takes seconds."""
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> None:
    from rcp.training.run.cli import run

    run(options.overrides, options.prog)
