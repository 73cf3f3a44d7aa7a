"""Evaluate a plug-in: `python evaluate.py --plugin runs/rcp/plugin --data runs/data/test`.

Prints accuracy and cost beside the full model and the controls, and writes the rows as JSON;
`--help` explains every option.
"""

import sys
from collections.abc import Sequence

from rcp.errors import UserError
from rcp.evaluation.options import parse


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    try:
        options = parse(arguments)
        from rcp.evaluation.cli import evaluate  # loads torch, which --help can do without

        evaluate(options)
    except UserError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
