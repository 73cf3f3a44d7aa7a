"""Export a trained plug-in: `python export.py --checkpoint RUN/best.ckpt --output DIR`.

The same as `rcp export`; `--help` explains every option.
"""

import sys
from collections.abc import Sequence

from rcp import commands


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    return commands.call("export", arguments, "export.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
