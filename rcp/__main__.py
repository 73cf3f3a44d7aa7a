"""Train, export and evaluate plug-ins, and look into them; COMMAND --help explains each."""

import sys
from collections.abc import Sequence

from rcp import commands
from rcp.refusals import Parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m rcp") -> int:
    """Run the command that ``arguments`` begin with; ``prog`` is what the user has typed for us.

    Exit status: 0, or 2 for input that is at fault.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    name, others = (given or [""])[0], given[1:]
    if name in commands.FORMER:
        now = commands.FORMER[name]
        print(f"{prog} {name} is called {now} now.", file=sys.stderr)
        name = now
    if name not in commands.names():
        name = _parser(prog).parse_args(given).command  # helps or refuses, most of all
    return commands.call(name, others, f"{prog} {name}")


def console() -> int:
    """The script `rcp` of an installed package."""
    return main(prog="rcp")


def _parser(prog: str) -> Parser:
    """What knows the commands by name alone."""
    parser = Parser(prog=prog, description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands.names():
        subparsers.add_parser(name, help=commands.about(name).partition("\n")[0])
    return parser


if __name__ == "__main__":
    sys.exit(main())
