"""Sentences that say how the numbers of a table were come by."""

from collections.abc import Sequence

from rcp.backbones import Backbone
from rcp.conversations.sample import Unreadable
from rcp.evaluation.report.rows import ResultRow
from rcp.quoting import quoted

SHOWN = 20
"""Questions that a sentence names; the rows have all of them."""

PAPER_FORMULA = "2s·4h² + 4s²h + 6shm"


def about_answers(full: ResultRow, batch_size: int) -> str:
    """What was asked, and what the token columns mean."""
    return (
        f"{full.n} questions, greedy generate in batches of {batch_size} with the tokens "
        "physically dropped. Mean tokens: over the decoder's layers; entering: those that enter "
        "its first layer."
    )


def about_unreadable(full: ResultRow, faults: Sequence[Unreadable]) -> list[str]:
    """Which questions are in no score, and of how many; nothing where all could be read."""
    if not faults:
        return []
    shown = ", ".join(quoted(fault.id) for fault in faults[:SHOWN])
    more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return [
        f"The scores are of {full.n} of {full.n + len(faults)} questions: {len(faults)} could not "
        f"be read ({shown}{more}). The first one: {faults[0]}"
    ]


def about_flops(row: ResultRow, plugin: float, encoder: int) -> str:
    """What is counted; ``plugin`` and ``encoder`` are FLOPs a sample."""
    return (
        "FLOPs: one prefill of the decoder, its head and the plug-in, which takes "
        f"{plugin / row.flops:.1%} of {row.method}'s. Encoding the image costs "
        f"{encoder / 1e9:.3f} G more."
    )


def about_savings(full: ResultRow, row: ResultRow, encoder: int, by_paper: float) -> str:
    """How much of the FLOPs is gone, by three conventions; ``by_paper`` is the third's share."""
    counted = 1 - row.flops / full.flops
    with_encoder = 1 - (row.flops + encoder) / (full.flops + encoder)
    return (
        f"{row.method} removes {counted:.1%} of the FLOPs so counted, {with_encoder:.1%} with "
        f"image encoding, and {by_paper:.1%} by the formula {PAPER_FORMULA} that papers print."
    )


def about_timing(backbone: Backbone, batch_size: int, rounds: int) -> str:
    """How prefills were timed."""
    model = backbone.model
    return (
        "Prefill speed-up: full time over pruned time, selection included and image encoding not; "
        f"median of {rounds} interleaved rounds, batch {batch_size}, {model.dtype}, "
        f"{backbone.attention} attention, {model.device}."
    )
