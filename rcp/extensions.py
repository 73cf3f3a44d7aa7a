"""A user's own methods: one file, imported because the user names it."""

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rcp.errors import UserError

IMPORT_HELP = "Python file of your own that defines further methods; it is run"


def import_files(paths: Iterable[Path]) -> None:
    """Run the files at ``paths``: the methods and families they define register themselves.

    Nothing but the user's own word leads here: no exported folder, checkpoint or configuration.
    Raises ``UserError`` for a file that is not there or cannot be imported.
    """
    for path in paths:
        if not (os.path.isfile(path) and path.suffix == ".py"):
            raise UserError(f"--import {path}: there is no such Python file. Give the path of one.")
        name = f"imported_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise UserError(
                f"--import {path}: it cannot be imported ({type(error).__name__}: {error}). "
                f"Correct the file."
            ) from error
