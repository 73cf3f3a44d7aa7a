"""What the parts of this package have in common: their command line, and where figures go."""

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rcp.atomic_write import atomic

FIGURES = "figures.json"


def parsed(name: str, about: str | None) -> argparse.Namespace:
    """Options of `python -m benchmarks.gpu.NAME`, with the ``device`` that they mean."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{name}", description=about)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for figures and whatever is made")
    add("--scratch", type=Path, required=True, help="fast folder for the base of 7B")
    add("--tiny", action="store_true", help="on the CPU, in small")
    options = parser.parse_args()
    options.device = "cpu" if options.tiny else "cuda"
    options.output.mkdir(parents=True, exist_ok=True)
    return options


@dataclass
class Figures:
    """What a part has measured so far: ``main`` figures by name, and ``rows`` with all of them.

    On disk after every addition, so that a part that is stopped loses only what it was at.
    """

    folder: Path
    main: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any] | None = None, **main: Any) -> None:
        """One more row, and the main figures as they are now."""
        if row is not None:
            print(json.dumps(row), flush=True)
            self.rows.append(row)
        self.main |= main
        values = asdict(self)
        del values["folder"]
        with atomic(self.folder / FIGURES) as unfinished:
            unfinished.write_text(json.dumps(values, indent=2) + "\n")


def read_figures(folder: Path) -> dict[str, Any]:
    """``main`` and ``rows`` of the part that worked in ``folder``, empty if it wrote none."""
    file = folder / FIGURES
    return json.loads(file.read_text()) if file.is_file() else {"main": {}, "rows": []}
