"""List the model families that plug-ins attach to, by their `config.model_type`."""

import argparse

from rcp.backbones.base import BACKBONES
from rcp.commands._listing import configure, show

__all__ = ["configure", "run"]


def run(options: argparse.Namespace) -> None:
    show(
        [
            {
                "name": name,
                "summary": BACKBONES.get(name).title,
                "limits": BACKBONES.get(name).limits,
                "untrainable": BACKBONES.get(name).untrainable,
            }
            for name in BACKBONES.names()
        ],
        options.json,
    )
