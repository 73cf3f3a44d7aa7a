"""List the methods that choose tokens, with their papers and what they need to see."""

import argparse
import inspect
from dataclasses import asdict
from pathlib import Path

from rcp.commands import _listing
from rcp.extensions import IMPORT_HELP, import_files
from rcp.pruners import PRUNERS


def configure(parser: argparse.ArgumentParser) -> None:
    _listing.configure(parser)
    parser.add_argument("--import", dest="imports", type=Path, action="append", default=[],
                        metavar="FILE", help=IMPORT_HELP)


def run(options: argparse.Namespace) -> None:
    import_files(options.imports)
    _listing.show(
        [
            {
                "name": name,
                "summary": (inspect.getdoc(PRUNERS.get(name)) or "").partition("\n")[0],
                "paper": PRUNERS.get(name).paper,
                "needs": sorted(PRUNERS.get(name).needs),
                "uses": sorted(PRUNERS.get(name).uses),
                "wraps": PRUNERS.get(name).wraps,
                "trained": PRUNERS.get(name).learned,
                "published": [asdict(found) for found in PRUNERS.get(name).published],
            }
            for name in PRUNERS.names()
        ],
        options.json,
    )
