"""What a measurement was made with."""

import datetime
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from rcp.version import __version__


def environment(command: Sequence[str]) -> dict[str, str]:
    """Command, date, versions and hardware, by name."""
    versions = {
        "rcp": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "Python": platform.python_version(),
    }
    return {
        "made by": f"`{shlex.join(command)}`",
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "hardware": _hardware(),
    }


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_cpu()}, {torch.get_num_threads()} threads"


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
