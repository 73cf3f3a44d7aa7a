"""Sentences that say how the numbers of a table were come by."""

import math
from collections.abc import Mapping, Sequence

from rcp.backbones import Backbone
from rcp.conversations.sample import Unreadable
from rcp.evaluation.contestants import BLANK_IMAGE, FULL, RANDOM
from rcp.evaluation.paired import RIGHT, Scores, mcnemar
from rcp.evaluation.report.rows import ResultRow
from rcp.quoting import quoted

SHOWN = 20
"""Questions that a sentence names; the rows have all of them."""

SIGNIFICANT = 0.05
"""A p from here on is no difference."""

EQUAL_TOKENS = 0.01
"""Two methods whose mean numbers of tokens differ by less, relatively, cost the same."""

BLIND = 0.6
"""The share of the full model's accuracy above which a blank image is reported to keep too much."""

PAPER_FORMULA = "2s·4h² + 4s²h + 6shm"


def about_answers(full: ResultRow, batch_size: int) -> str:
    """What was asked, and what the token columns mean."""
    return (
        f"{full.n} questions, greedy generate in batches of {batch_size} with the tokens "
        "physically dropped. Mean tokens: over the decoder's layers; entering: those that enter "
        "its first layer."
    )


def about_pairs() -> str:
    """What the comparison with the full model is."""
    return (
        "95 % interval: of the mean score less the full model's, in points; bootstrap over "
        "questions, paired. McNemar p: exact, of the questions that only one of the two gets "
        "right, which is a score of at least 0.5, mean over seeds."
    )


def about_random(rows: Sequence[ResultRow], scores: Mapping[str, Scores]) -> list[str]:
    """Which methods are no better than random tokens, as many of them; nothing where all are.

    ``scores`` (questions,) by method, mean over seeds.
    """
    controls = [row for row in rows if row.method in RANDOM]
    found = []
    for row in rows:
        if row.method in (FULL, BLANK_IMAGE, *RANDOM):
            continue
        for control in controls:
            if math.isclose(row.mean_tokens, control.mean_tokens, rel_tol=EQUAL_TOKENS):
                mine, theirs = scores[row.method], scores[control.method]
                p = mcnemar(mine >= RIGHT, theirs >= RIGHT)
                if mine.mean() <= theirs.mean() or p >= SIGNIFICANT:
                    found.append(
                        f"{row.method} ({mine.mean():.1%} against {theirs.mean():.1%} of "
                        f"{control.method}, p = {p:.2g})"
                    )
                break
    if not found:
        return []
    return [
        f"No better than random at equal tokens: {', '.join(found)}. Better would be a higher mean "
        f"score with McNemar's p below {SIGNIFICANT}."
    ]


def about_blank(rows: Sequence[ResultRow]) -> list[str]:
    """A sentence where most answers need no image."""
    return [
        f"A blank image keeps {row.retained:.1%} of the full model's {row.metric}, more than "
        f"{BLIND:.0%}: most of these questions can be answered unseen, and what a method retains "
        "of them says little of the tokens it keeps."
        for row in rows
        if row.method == BLANK_IMAGE and row.retained > BLIND
    ]


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
    """What is counted; ``plugin`` and ``encoder`` are FLOPs a sample, both of this row's."""
    return (
        "FLOPs: one prefill of the decoder, its head and the plug-in, which takes "
        f"{plugin / row.flops:.1%} of {row.method}'s. Encoding the image costs "
        f"{encoder / 1e9:.3f} G more."
    )


def about_savings(
    full: ResultRow, row: ResultRow, encoders: Sequence[int], by_paper: float
) -> str:
    """How much of the FLOPs is gone, by three conventions; ``encoders`` are FLOPs a sample of the
    image's encoding, of ``full`` and of ``row``, ``by_paper`` is the third's share."""
    counted = 1 - row.flops / full.flops
    with_encoder = 1 - (row.flops + encoders[1]) / (full.flops + encoders[0])
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
