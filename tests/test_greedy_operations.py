"""How many operations a choice issues: what a GPU whose launches are the bottleneck pays.

Counted as they are dispatched, the same on every machine; views compute nothing and are left out.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rcp.pruners import PRUNERS, mmtok
from tests.views import WIDTH, make_view

WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item"}
"""Operations that a host waits for."""

FREE = {"new_empty", "empty", "_unsafe_view", "lift_fresh"}
"""Operations that launch nothing."""


class Operations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def operations(name: str, tokens: int, count: int, batch: int = 1) -> Counter[str]:
    """Those of one choice of ``name``, the projector's not counted."""
    view = make_view(batch, tokens, "random", 0)
    view = replace(view, most=count, projector=lambda rows: rows)
    pruner, counts = PRUNERS.get(name)(WIDTH), torch.full((batch,), count)
    with torch.no_grad(), Operations() as seen:
        pruner.select(view, counts)
    return seen.count


ONCE = {"divprune": 28, "todre": 30, "agilepruner": 48, "mmtok": 47, "zoo_prune": 46}
"""At the first pick, and before and after all picks."""

A_PICK = {"divprune": 3, "todre": 3, "zoo_prune": 3, "agilepruner": 6, "mmtok": 16}
"""At each further pick: an argmax, and what tokens are worth then."""


@pytest.mark.parametrize("name", ONCE)
def test_a_greedy_method_issues_few_operations(name: str):
    for picks in (1, 2, 64):
        issued = sum(operations(name, 576, picks).values())
        assert issued == ONCE[name] + A_PICK[name] * (picks - 1)


@pytest.mark.parametrize("name", ONCE)
def test_a_batch_costs_one_operation_more_a_pick(name: str):
    if name == "mmtok":  # the host works sample by sample
        return
    few, more = (sum(operations(name, 40, picks, batch=3).values()) for picks in (4, 9))
    assert (more - few) / 5 == A_PICK[name] + 1


@pytest.mark.parametrize("name, expected", [("uniform", 3), ("random", 10), ("cls_attention", 8)])
def test_a_choice_at_once_issues_few_operations(name: str, expected: int):
    for tokens, count, batch in ((576, 64, 1), (700, 300, 1), (576, 64, 3)):
        assert sum(operations(name, tokens, count, batch).values()) == expected


@pytest.mark.parametrize("name", [*ONCE, "random", "cls_attention"])
def test_no_host_waits_for_a_choice(name: str, monkeypatch):
    monkeypatch.setattr(mmtok, "_less_by_few", mmtok._less)  # as on a GPU
    issued = operations(name, 40, 9, batch=2)
    assert not WAITING & issued.keys()


def test_covers_on_a_gpu_are_lowered_in_few_operations(monkeypatch):
    monkeypatch.setattr(mmtok, "_less_by_few", mmtok._less)
    few, more = (sum(operations("mmtok", 40, picks, batch=3).values()) for picks in (4, 9))
    assert (more - few) / 5 == 11
