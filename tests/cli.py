"""What tests of train.py and export.py share: a short run, and how bad input is told."""

import re
from pathlib import Path
from typing import Any

FILM = {"inner": 8, "side": 4, "channels": 4}
RCP = {"inner": 8, "queries": 4, "heads": 2}


def settings(base_folder: Path, conversations: Path, folder: Path) -> dict[str, Any]:
    return {
        "run_folder": str(folder / "run"),
        "model": {
            "base": str(base_folder),
            "plugin": {
                "stages": [{"layer": 1, "ratio": 0.25, "method": "rcp", "arguments": RCP}],
                "repair": {"layers": [3], "arguments": FILM},
            },
            "max_new_tokens": 2,
        },
        "data": {"train": str(conversations), "val": str(conversations), "batch_size": 4},
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
    }


def assert_one_paragraph(error: str, script: str, complaint: str) -> None:
    paragraph = error[error.index(f"{script}: ") :]
    assert len(paragraph.strip().splitlines()) == 1 and "Traceback" not in error
    assert re.search(complaint, paragraph), paragraph
