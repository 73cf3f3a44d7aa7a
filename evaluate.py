"""Evaluate a plug-in: `python evaluate.py --plugin runs/rcp/plugin --data runs/data/test`.

Prints accuracy and cost beside the full model and the controls, and writes the rows as JSON and
every answer as Parquet. The same as `rcp evaluate`; `--help` explains every option.
"""

import sys
from collections.abc import Sequence

from rcp import commands


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    return commands.call("evaluate", arguments, "evaluate.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
