"""What is given, options of commands most of all, refused before any work is done for it."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sized
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from rcp.errors import UserError


class Parser(ArgumentParser):
    """Tells bad arguments like any other bad input: in one paragraph, with no usage dumped."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


def refuse_below_one(options: Namespace, *names: str) -> None:
    """Raise ``UserError`` for one of ``names`` that is given and is no count."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {value}: give a whole number of at least 1.")


def refuse_layers(layers: Iterable[int], depth: int) -> None:
    """Raise ``UserError`` for one of ``layers`` that a decoder of ``depth`` layers lacks."""
    for layer in layers:
        if not 0 <= layer < depth:
            raise UserError(
                f"--layers names {layer}, but the decoder has {depth} layers. Choose among 0 to "
                f"{depth - 1}."
            )


def refuse_no_file(path: Path, option: str) -> None:
    """Raise ``UserError`` where no file ``path`` can be written, which ``option`` names."""
    if os.path.isdir(path):
        raise UserError(f"{option} '{path}' is a folder: give the name of a file.")
    refuse_unwritable(path, option)


def refuse_unwritable(path: Path, option: str) -> None:
    """Raise ``UserError`` where nothing can be made under the name ``path``."""
    nearest = path.absolute().parent
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    try:
        with TemporaryDirectory(prefix=f".{path.name}-", dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"{option} is '{path}', but nothing can be written in '{nearest}' under that name "
            f"({error.strerror}). Choose another place."
        ) from error


def refuse_unequal(**columns: Sized) -> None:
    """Raise ``UserError`` where the columns of a batch are not of one length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise UserError(f"A batch holds {said}: give one of each for every sample.")
