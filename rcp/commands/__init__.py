"""The subcommands of `python -m rcp`: one file each, and a new one is a new file.

A file `guide_layer.py` is the subcommand `guide-layer`. The first line of its docstring is its
help; its ``configure`` declares arguments and its ``run`` does the work. Where it sets a default
for ``overrides``, these are the arguments that it does not know, in their order. A file whose name
begins with an underscore is no subcommand but what several of them share.
"""

import argparse
import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

FORMER = {"plan": "estimate"}
"""Names that commands had before, which still work, and those that they have now."""


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
