"""Named tensors in numbered files that are each written whole or not at all."""

import functools
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rcp.atomic_write import atomic
from rcp.errors import UserError
from rcp.quoting import plain

OPEN_FILES = 64


class Shards:
    """``folder`` with the files ``00000.safetensors``, ``00001.safetensors`` and so on.

    Tensors are read one by one, without reading the rest of their file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = functools.lru_cache(maxsize=OPEN_FILES)(self._file)

    def __contains__(self, number: int) -> bool:
        return os.path.isfile(self._path(number))

    def write(self, number: int, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Write one file; ``metadata`` are what :meth:`metadata` gives back."""
        path = self._path(number)
        contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
        with atomic(path) as unfinished:
            try:
                # without tensors and without metadata, {} would make a file that no one can read
                save_file(contiguous, str(unfinished), metadata=metadata or None)
            except SafetensorError as error:
                raise UserError(
                    f"'{path}' cannot be written ({error}). Make room: the next run goes on there."
                ) from error

    def read(self, number: int, name: str) -> Tensor | None:
        """One tensor of one file, None if it does not hold it."""
        file = self.file(number)
        return file.get_tensor(name) if name in file.keys() else None

    def metadata(self, number: int) -> dict[str, str]:
        """What was written beside the tensors of a file."""
        return self.file(number).metadata() or {}

    def _file(self, number: int) -> Any:
        path = self._path(number)
        try:
            return safe_open(str(path), framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"'{path}' cannot be read ({plain(error)}). Remove that file: the next run makes "
                "it again."
            ) from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.safetensors"
