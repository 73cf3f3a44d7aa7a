"""List what becomes of each type of model: supported with what, or why not."""

import argparse

from rcp.backbones.verdicts import as_markdown, verdicts
from rcp.commands import _listing


def configure(parser: argparse.ArgumentParser) -> None:
    _listing.configure(parser)
    parser.add_argument("--markdown", action="store_true", help="as docs/backbones.md")


def run(options: argparse.Namespace) -> None:
    found = verdicts()
    if options.markdown:
        print(as_markdown(found), end="")
        return
    entries: list[_listing.Entry] = [
        {
            "name": one.model_type,
            "summary": one.title or f"not supported: it {one.note}",
            "supports": list(one.supports),
            "limits": one.note if one.supports else "",
        }
        for one in found
    ]
    _listing.show(entries, options.json)
