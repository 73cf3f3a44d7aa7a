"""Training state on disk: written to a temporary name, then renamed, so a cut never spoils it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_state(path: Path, **parts: Any) -> None:
    """Write tensors, state dicts and plain values as one file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    torch.save(parts, temporary)
    os.replace(temporary, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """What save_state wrote, or None where there is nothing yet."""
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)
