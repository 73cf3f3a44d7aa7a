"""Whether a folder holds what the frozen model of this run gives."""

import os
from pathlib import Path

from rcp.base_model.fingerprint import record, that_differ
from rcp.errors import UserError


def check_fingerprint(path: Path, mine: dict[str, str]) -> None:
    """Raise ``UserError`` unless the file ``path`` holds ``mine``; write it where there is none."""
    if os.path.isfile(path):
        _refuse_another(path, mine)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"'{path.parent}' cannot be made ({error.strerror}). Name another folder with "
            "model.teacher_cache."
        ) from error
    record(path, mine)


def _refuse_another(path: Path, mine: dict[str, str]) -> None:
    if different := that_differ(path, mine):
        raise UserError(
            f"'{path.parent}' holds what another run's frozen model gave: its "
            f"{' and '.join(different)} differ from this run's. Name another folder with "
            "model.teacher_cache, or remove that one to have it made again."
        )
