"""List the published evaluation sets: where they lie, how they are asked and scored."""

import argparse

from rcp.commands import _listing
from rcp.evaluation.sets.listing import all_sets, as_markdown


def configure(parser: argparse.ArgumentParser) -> None:
    _listing.configure(parser)
    parser.add_argument("--markdown", action="store_true", help="as docs/sets.md")


def run(options: argparse.Namespace) -> None:
    found = all_sets()
    if options.markdown:
        print(as_markdown(found), end="")
        return
    entries: list[_listing.Entry] = [
        {
            "name": one.name,
            "summary": one.title,
            "hub": one.hub.source,
            "rows": one.rows,
            "metric": one.metric,
            "primary": one.primary,
            "max_new_tokens": one.max_new_tokens,
            "prompt": one.prompt,
            "prompt_source": one.prompt_source,
            "parsing": one.parsing,
        }
        for one in found
    ]
    _listing.show(entries, options.json)
