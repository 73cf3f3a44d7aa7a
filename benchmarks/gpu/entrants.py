"""What is timed at LLaVA-1.5-7B's shape: the full model, and methods with 576 visual tokens."""

import rcp
from rcp.pruners import PRUNERS

NINTH = 1 / 9
REPAIR = (22, 29)
AT_THE_INPUT = ("covipal", "divprune", "uniform", "random", "mmtok", "holov")
FULL, RCP = "full", "rcp for 64"


def specs() -> dict[str, rcp.PluginSpec | None]:
    """By name, for 32 layers; None is the model without a plug-in.

    Pruners and repair have random weights, which cost what trained ones do.
    """
    found: dict[str, rcp.PluginSpec | None] = {
        FULL: None,
        RCP: _spec({1: 0.1672, 13: 0.0459, 25: 0.0144}, "rcp", REPAIR),
        "rcp at 0": _spec({0: NINTH}, "rcp", REPAIR),
    }
    found |= {f"{method} at 0": _spec({0: NINTH}, method) for method in AT_THE_INPUT}
    found["fastv at 2"] = _spec({2: NINTH}, "fastv")
    pyramid = PRUNERS.get("pyramiddrop").published[0]
    stages = dict(zip(pyramid.layers, pyramid.ratios))
    return found | {"pyramiddrop": _spec(stages, "pyramiddrop")}


def _spec(
    stages: dict[int, float], method: str, repair: tuple[int, ...] = ()
) -> rcp.PluginSpec:
    return rcp.PluginSpec(
        [rcp.StageSpec(layer, ratio, method) for layer, ratio in stages.items()],
        rcp.RepairSpec(list(repair)) if repair else None,
    )
