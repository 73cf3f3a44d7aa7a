"""The list of samples not to be read, which check-data writes and training takes."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rcp.atomic_write import atomic
from rcp.errors import UserError
from rcp.quoting import plain, quoted
from rcp.typed_values import from_plain


@dataclass(frozen=True)
class Entry:
    """One row: its number in the source, its ``file`` there and ``row_of_file``, all from 0.

    ``id`` is what the row calls itself, None where it does not; ``why`` is for its reader.
    """

    row: int
    file: int
    row_of_file: int
    id: str | None
    why: str


class LeftOut:
    """The entries of the file ``path``; raises ``UserError`` for one that check-data did not write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_bytes())
            listed = content if isinstance(content, list) else [content]
            entries = [from_plain(Entry, entry) for entry in listed]
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"The list of samples to leave out, {quoted(path)}, cannot be read "
                f"({plain(error)}). Have it written by 'python -m rcp check-data DATA --output "
                "FILE'."
            ) from error
        self._rows = {entry.row: entry for entry in entries}
        self._places = {(entry.file, entry.row_of_file): entry for entry in entries}

    def has_row(self, row: int, id: str | None) -> bool:
        """Whether the row number ``row``, which calls itself ``id``, is listed."""
        return self._is_that(self._rows.get(row), id)

    def has_place(self, file: int, row_of_file: int, id: str | None) -> bool:
        """Likewise by its place in a file."""
        return self._is_that(self._places.get((file, row_of_file)), id)

    def _is_that(self, entry: Entry | None, id: str | None) -> bool:
        if entry is not None and entry.id != id:
            raise UserError(
                f"{quoted(self.path)} leaves out row {entry.row} as {quoted(entry.id)}, but that "
                f"row is {quoted(id)} here: it was written for other data. Have it written anew by "
                "'python -m rcp check-data DATA --output FILE'."
            )
        return entry is not None


def write_entries(entries: Iterable[Entry], path: Path) -> None:
    """Write ``entries`` as :class:`LeftOut` reads them; whole or not at all."""
    with atomic(path) as unfinished:
        unfinished.write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
