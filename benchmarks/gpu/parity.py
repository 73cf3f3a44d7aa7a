"""Every method and every model family on the device against the CPU in fp32.

Measured in each mode and precision: the largest difference between logits, relative to the largest
logit, with the CPU's plan replayed on the device, so that rounding may not swap two tokens; and,
with nothing replayed, how many of the tokens kept are others.
"""

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import rcp
from benchmarks.gpu.measuring import Figures, parsed
from benchmarks.gpu.subjects import Subject, moved, subjects
from rcp.attaching.trace import Trace
from tests.decoding import error

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MODES = ("drop", "soft", "record")
TOLERANCE = {"fp32": 1e-4, "bf16": 0.15}
"""Of a logit, relative to the largest one: sums in another order, and with 8 bits, by which models
without a plug-in are off by up to 0.05."""


class Side:
    """One subject's model on one device in one precision."""

    def __init__(self, subject: Subject, device: str, dtype: torch.dtype) -> None:
        self.subject = subject
        self.model = copy.deepcopy(subject.model).to(device, dtype)
        self.inputs = moved(subject.inputs, device, dtype)

    @torch.no_grad()
    def run(self, mode: str, plan: rcp.KeepPlan | None = None) -> tuple[Tensor, Trace]:
        """Logits (B, T, V) in fp32 on the CPU, and what the forward saw."""
        plugin = copy.deepcopy(self.subject.plugin)
        with rcp.attach(self.model, plugin, mode, plan=plan) as handle:
            with handle.prompt(self.subject.ends), handle.trace() as trace:
                logits = self.model(**self.inputs).logits
        return logits.float().cpu(), trace


def compared(subject: Subject, device: str) -> Iterator[dict[str, Any]]:
    """One row a precision: largest error by mode, and differing choices."""
    text, reference = subject.text, Side(subject, "cpu", torch.float32)
    expected = {mode: reference.run(mode) for mode in MODES}
    plan = expected["drop"][1].plan
    assert plan is not None
    for precision, dtype in PRECISIONS.items():
        side = Side(subject, device, dtype)
        row: dict[str, Any] = {"subject": subject.name, "precision": precision}
        for mode in MODES:
            logits, _ = side.run(mode, None if mode == "record" else plan)
            row[mode] = error(logits[text], expected[mode][0][text])
        chosen = side.run("drop")[1].plan
        assert chosen is not None
        kept = plan.alive & plan.visual
        row |= {"kept": int(kept.sum()), "others": int((kept & ~chosen.alive.cpu()).sum())}
        yield row


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Inside, fp32 convolutions on a GPU are not computed in TF32, as matrix products never are."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def rows_of(subject: Subject, device: str) -> list[dict[str, Any]]:
    """As :func:`compared`; what a subject fails at is its only row, and stops no other."""
    try:
        return list(compared(subject, device))
    except Exception as problem:
        return [{"subject": subject.name, "error": " ".join(str(problem).split())[:200]}]


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a subject has failed, or is off by more than the tolerance, or by NaN."""
    return "error" in row or not _largest(row) <= TOLERANCE[row["precision"]]


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Main figures: the largest error and the differing choices of each precision."""
    found: dict[str, Any] = {
        "subjects": len({row["subject"] for row in rows}),
        "wrong": sum(map(is_wrong, rows)),
    }
    for precision in PRECISIONS:
        these = [row for row in rows if row.get("precision") == precision]
        kept, others = (sum(row[name] for row in these) for name in ("kept", "others"))
        found[f"largest error {precision}"] = max(map(_largest, these), default=None)
        found[f"other tokens {precision}"] = f"{others}/{kept}"
    return found


def _largest(row: dict[str, Any]) -> float:
    return max(row[mode] for mode in MODES)


def main() -> int:
    options = parsed("parity", __doc__)
    figures = Figures(options.output)
    with exact_convolutions():
        for subject in subjects():
            for row in rows_of(subject, options.device):
                figures.add(row)
            figures.add(**totals(figures.rows))
    return int(any(map(is_wrong, figures.rows)))


if __name__ == "__main__":
    sys.exit(main())
