"""List the methods that choose tokens, with their papers and what they need to see."""

import argparse
import inspect
from dataclasses import asdict

from rcp.commands._listing import configure, show
from rcp.pruners import PRUNERS

__all__ = ["configure", "run"]


def run(options: argparse.Namespace) -> None:
    show(
        [
            {
                "name": name,
                "summary": (inspect.getdoc(PRUNERS.get(name)) or "").partition("\n")[0],
                "paper": PRUNERS.get(name).paper,
                "needs": sorted(PRUNERS.get(name).needs),
                "trained": PRUNERS.get(name).learned,
                "published": [asdict(found) for found in PRUNERS.get(name).published],
            }
            for name in PRUNERS.names()
        ],
        options.json,
    )
