"""What ``generate(..., visual_budget=...)`` asks for: the schedules of one call."""

from typing import Any

import numpy as np
from torch import Tensor

from rcp.attaching.forwards.forward import Setup
from rcp.choosing.schedule import Schedule, mean_ratio_of
from rcp.errors import UserError
from rcp.quoting import quoted


def schedules_for(budget: Any, setup: Setup, rows: int | None) -> list[Schedule]:
    """One schedule for all rows, or one for each of the ``rows`` that `generate` was given.

    ``budget``: as of :func:`rcp.attach`, one number, or a list or 1-D tensor of one a row. Raises
    ``UserError`` for anything else, for a budget that the plug-in does not have, and where a plan
    is replayed, which has chosen already.
    """
    if setup.plan is not None:
        raise UserError(
            f"visual_budget={quoted(budget)} has no meaning while a plan is replayed, which says "
            f"what is kept. Leave it out, or attach without the plan."
        )
    if isinstance(budget, (Tensor, np.ndarray, np.generic)):
        budget = budget.tolist()
    if not isinstance(budget, (list, tuple)):
        return [_schedule(budget, setup, "visual_budget")]
    if rows is not None and len(budget) != rows:
        raise UserError(
            f"visual_budget has {len(budget)} numbers, but the batch has {rows} rows. Give one "
            f"number for all of them, or one a row."
        )
    return [_schedule(one, setup, f"visual_budget[{row}]") for row, one in enumerate(budget)]


def _schedule(budget: Any, setup: Setup, name: str) -> Schedule:
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise UserError(
            f"{name} is {quoted(budget)}: give visual tokens, mean over layers, or below 1 a share "
            f"of them; one number, or one a row."
        )
    try:
        return setup.plugin.schedule_at(mean_ratio_of(budget, setup.backbone.visual_tokens))
    except UserError as error:
        raise UserError(f"{name} is {budget:g}. {error}") from None
