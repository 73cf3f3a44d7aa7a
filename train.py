"""Train a plug-in: `python train.py --config rcp_tiny.yaml`.

Every field of the configuration can be overridden, as in `--model.plugin.budget 32`; `--help`
explains them all. `rcp train` is the same, but for the data `generated`, which are not installed.
"""

import sys
from collections.abc import Sequence

import data.endless  # noqa: F401  what data.train calls "generated"
from rcp import commands


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    return commands.call("train", arguments, "train.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
