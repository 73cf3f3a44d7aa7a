"""The card, and the versions of what a GPU run depends on."""

import re
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("pytorch-lightning", "deepspeed", "peft")


def card() -> str:
    """The GPU's name as a file's: "NVIDIA H100 80GB HBM3" is nvidia_h100_80gb_hbm3."""
    return re.sub(r"\W+", "_", torch.cuda.get_device_name()).strip("_").lower()


def machine() -> dict[str, str]:
    """Versions beside those of :mod:`benchmarks.environment`: packages, CUDA and its driver."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return {"packages": packages, "CUDA": f"{torch.version.cuda}, driver {_driver()}"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
