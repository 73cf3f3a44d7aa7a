"""Train a plug-in: `python train.py --config rcp_tiny.yaml`.

Every field of the configuration can be overridden, as in `--model.plugin.budget 32`; `--help`
explains them all.
"""

import sys
from collections.abc import Sequence

import data.endless  # noqa: F401  what data.train calls "generated"
from rcp.errors import UserError
from rcp.training.run.cli import run


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    try:
        run(arguments)
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
