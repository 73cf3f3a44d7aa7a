"""What the engine's config says of pruning, and the plug-in that it names."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rcp.errors import UserError
from rcp.folder.read_write import DESCRIPTION, WEIGHTS, load_plugin
from rcp.plugin import Plugin
from rcp.serving.vllm.entry_stage import entry_stage
from rcp.typed_values import from_plain

FIELD = "rcp"
"""The field of the model's config, set by ``--hf-overrides``."""


@dataclass(frozen=True)
class Settings:
    """``plugin``: an exported folder. ``entry_only``: serve the first stage of a plug-in that has
    more. ``budget``: that of requests which give none; null for the plug-in's own."""

    plugin: str
    entry_only: bool = False
    budget: int | float | str | None = None

    @classmethod
    def of(cls, config: Any) -> "Settings":
        """Those of a model's ``config``; raises ``UserError`` where there are none, or other."""
        found = getattr(config, FIELD, None)
        if not isinstance(found, dict):
            raise UserError(
                f"The model's config has no field '{FIELD}' that names a plug-in. Start the engine "
                f"by `python -m rcp serve FOLDER`, which prints the command it runs."
            )
        return from_plain(cls, found)

    def entry(self) -> Plugin:
        """The plug-in's entry stage; raises ``UserError`` where it cannot be served."""
        return _entry(self.plugin, self.entry_only)

    def fingerprint(self) -> str:
        """Tells the folder's contents from any other's: 16 hexadecimal digits."""
        return _fingerprint(self.plugin)


@lru_cache(maxsize=4)
def _entry(folder: str, entry_only: bool) -> Plugin:
    return entry_stage(load_plugin(folder), entry_only)


@lru_cache(maxsize=4)
def _fingerprint(folder: str) -> str:
    digest = hashlib.sha256()
    for name in (DESCRIPTION, WEIGHTS):
        digest.update((Path(folder) / name).read_bytes())
    return digest.hexdigest()[:16]
