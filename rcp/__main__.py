"""Small commands around plug-ins: `python -m rcp COMMAND --help` explains each."""

import argparse
import sys
from collections.abc import Sequence

from rcp import commands
from rcp.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    given = _as_called_now(sys.argv[1:] if arguments is None else list(arguments))
    parser = argparse.ArgumentParser(prog="python -m rcp", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands.names():
        about = commands.about(name)
        subparser = subparsers.add_parser(
            name,
            help=about.partition("\n")[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if given[:1] == [name]:
            commands.command(name).configure(subparser)
    options, others = parser.parse_known_args(given)
    if others and "overrides" not in options:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.overrides = others
    try:
        commands.command(options.command).run(options)
    except UserError as error:
        print(f"python -m rcp {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _as_called_now(given: list[str]) -> list[str]:
    """``given`` with the present name of its command, said where it had another one."""
    if not given or given[0] not in commands.FORMER:
        return given
    name = commands.FORMER[given[0]]
    print(f"python -m rcp {given[0]} is called {name} now.", file=sys.stderr)
    return [name, *given[1:]]


if __name__ == "__main__":
    sys.exit(main())
