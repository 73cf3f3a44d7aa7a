"""Files and folders of results, which appear whole or not at all, for whom the umask lets in.

Both are written under another name beside their place, and moved there when they are complete.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rcp.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Inside, a file to write to; it becomes ``path`` at the end, or goes if that is not reached.

    Raises ``UserError`` where it cannot be written.
    """
    with _workplace(path) as workplace:
        unfinished = workplace / path.name
        unfinished.touch()
        mode = stat.S_IMODE(unfinished.stat().st_mode)
        yield unfinished
        unfinished.chmod(mode)  # safetensors puts a file of its own there, closed to others
        os.replace(unfinished, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Inside, an empty folder; it takes the place of ``path`` at the end, or goes as in ``whole``.

    Raises ``UserError`` where it cannot be written.
    """
    with _workplace(path) as workplace:
        unfinished = workplace / path.name
        unfinished.mkdir()
        mode = stat.S_IMODE(unfinished.stat().st_mode)
        yield unfinished
        for file in unfinished.rglob("*"):
            if not os.path.isdir(file):
                file.chmod(mode & 0o666)  # as in ``whole``
        replace_folder(unfinished, path)


def replace_folder(new: Path, target: Path) -> None:
    """Move the folder ``new`` to ``target``; what was there goes only when its successor is.

    Killed between the two moves it leaves no ``target``, but what was there, whole, where
    :func:`standing` looks for it.
    """
    before = predecessor(target)
    if os.path.exists(target):
        shutil.rmtree(before, ignore_errors=True)
        os.rename(target, before)
    os.rename(new, target)
    shutil.rmtree(before, ignore_errors=True)


def predecessor(path: Path) -> Path:
    """Where the folder ``path`` lies while another one takes its place."""
    return path.parent / f".{path.name}-before"  # Path.with_name refuses "."


def standing(path: Path) -> Path:
    """``path``, or its predecessor if a process was killed while that was being replaced."""
    before = predecessor(path)
    return before if os.path.exists(before) and not os.path.lexists(path) else path


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that goes at the end; what the system refuses is a ``UserError``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as workplace:
            yield Path(workplace)
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror or error}). Choose another place, or "
            f"make room."
        ) from error
