"""Files of results, which appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rcp.errors import UserError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Inside, a file to write to; it becomes ``path`` at the end, or goes if that is not reached.

    Raises ``UserError`` where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(descriptor)
        unfinished = Path(name)
        try:
            yield unfinished
            unfinished.chmod(0o644)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink()
            raise
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror or error}). Choose another place, or "
            f"make room."
        ) from error
