"""The operations that the package asks of a device, and the list of those that CUDA has.

A CPU runs operations that CUDA has no kernel for, mostly on bool, integers and half precision.
``cuda_ops.txt`` lists each operation that the package issues with the dtypes it is given;
``test_cuda_ops.py`` fails on one that is not there. ``python -m tests.cuda_ops`` tells what is
missing, with ``--write`` it brings the list up to date, and with ``--device cuda --seen`` it marks
what has run on this machine's GPU.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rcp
from tests.cuda_workloads import AUTOCAST, WORKLOADS

LIST = Path(__file__).with_suffix(".txt")
SEEN, DOCUMENTED = "seen", "documented"

PACKAGE, TORCH = (f"{Path(module.__file__ or '').parent}/" for module in (rcp, torch))
BACKWARD = "the backward pass"
KERNELS = ("aten._scaled_dot_product", "aten._grouped_mm")
"""Kernels of attention and of mixtures of experts: others on a GPU, by the choice of torch."""


class Inventory(TorchDispatchMode):
    """Collects what the package issues on ``device``: ``asked`` maps "operation dtypes" to a place.

    Issued by the package is what a line of its own asks of torch, and all of a backward pass; what
    the model does by itself is none of its business. Views compute nothing and are left out. An
    operation counts once it has run.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device).type
        self.asked: dict[str, str] = {}

    def __enter__(self) -> "Inventory":
        # one thread for all devices: another would hide who asks
        self._threads = torch.autograd.set_multithreading_enabled(False)
        self._threads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._threads.__exit__(*raised)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not str(func).startswith(KERNELS):
            given = list(_tensors([*args, *(kwargs or {}).values()])) or list(_tensors([result]))
            place = _place(sys._getframe(1))
            if place is not None and self.device in {tensor.device.type for tensor in given}:
                dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in given})
                self.asked.setdefault(f"{func} {'+'.join(dtypes)}", place)
        return result


def _place(frame: FrameType | None) -> str | None:
    """The package's line that asks, None where another asks."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            return f"rcp/{code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
        if code.co_name == "_engine_run_backward":
            return BACKWARD
        if not code.co_filename.startswith(TORCH):
            return None
        frame = frame.f_back
    return None


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors in ``values``, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def record(name: str, device: str = "cpu") -> dict[str, str]:
    """What the workload ``name`` asks of ``device``: "operation dtypes" → a line that asks."""
    torch.manual_seed(0)
    with Inventory(device) as inventory:
        WORKLOADS[name](device)
    return inventory.asked


def listed() -> dict[str, str]:
    """The list: "operation dtypes" → ``SEEN`` or ``DOCUMENTED``."""
    lines = [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    entries = {}
    for line in lines:
        asked, mark = line.rsplit(maxsplit=1)
        assert mark in (SEEN, DOCUMENTED), f"{LIST.name}: '{line}' says neither"
        entries[asked] = mark
    return entries


def write(entries: dict[str, str]) -> None:
    """Write the list anew, under the header that it has."""
    header = [line for line in LIST.read_text().splitlines() if line.startswith("#")]
    lines = [f"{asked} {mark}" for asked, mark in sorted(entries.items())]
    LIST.write_text("\n".join([*header, *lines]) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="What the package asks of a device.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="bring the list up to date")
    parser.add_argument("--seen", action="store_true", help="mark what has run on the device")
    options = parser.parse_args()
    if options.seen and options.device == "cpu":
        parser.error("--seen is about a GPU: name it by --device")
    torch.set_num_threads(1)
    before, asked, failed = listed(), dict[str, str](), 0
    names = [name for name in WORKLOADS if options.device != "cpu" or name not in AUTOCAST]
    for name in names:
        try:
            asked |= record(name, options.device)
        except RuntimeError as error:
            failed += 1
            print(f"{name} failed: {str(error).splitlines()[0]}")
    new = sorted(set(asked) - set(before))
    for one in new:
        print(f"not on the list: {one} ({asked[one]})")
    print(f"{len(asked)} operations, {len(new)} new, {failed} of {len(names)} workloads failed")
    if options.seen:
        write(before | dict.fromkeys(asked, SEEN))
    elif options.write and not failed:
        seen = {one: mark for one, mark in before.items() if mark == SEEN}
        write(dict.fromkeys(asked, DOCUMENTED) | seen)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
