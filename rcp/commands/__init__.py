"""The subcommands of `rcp`: one file each, and a new one is a new file.

A file `guide_layer.py` is the subcommand `guide-layer`. The first line of its docstring is its
help, and `%(prog)s` there what the user has typed; its ``configure`` declares arguments and its
``run`` does the work. Where it sets a default for ``overrides``, these are the arguments that it
does not know, in their order. A file whose name begins with an underscore is no subcommand but
what several of them share.
"""

import argparse
import ast
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from rcp.errors import UserError
from rcp.refusals import Parser

FORMER = {"plan": "estimate"}
"""Names that commands had before, which still work, and those that they have now."""

WITH_OWN_HELP = {"train"}
"""Commands whose --help another parser writes, which knows every field of a configuration."""


class Command(Protocol):
    """What a module of this package is."""

    __doc__: str | None

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, options: argparse.Namespace) -> None:
        """Do it; raises ``UserError`` for input that is at fault."""


def names() -> list[str]:
    """Names of all subcommands, sorted; imports none of them."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def command(name: str) -> Command:
    """The subcommand ``name``, one of :func:`names`."""
    return cast(Command, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def about(name: str) -> str:
    """What the subcommand says of itself, read without importing it, which takes seconds."""
    path = Path(__file__).parent / f"{name.replace('-', '_')}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def call(name: str, arguments: Sequence[str], prog: str) -> int:
    """Run the subcommand ``name``, one of :func:`names`, for which the user has typed ``prog``.

    Exit status: 0, or 2 for input that is at fault.
    """
    found = command(name)
    parser = Parser(
        prog=prog,
        description=about(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=name not in WITH_OWN_HELP,
    )
    found.configure(parser)
    options, others = parser.parse_known_args(arguments)
    if others and "overrides" not in options:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.overrides, options.prog = others, prog
    try:
        found.run(options)
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    return 0
