"""Entries of one kind, a line each or as JSON."""

import argparse
import json
from collections.abc import Sequence

Entry = dict[str, object]


def configure(parser: argparse.ArgumentParser) -> None:
    """The one choice that every list offers."""
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def show(entries: Sequence[Entry], as_json: bool) -> None:
    """Print ``entries``: ``name`` and ``summary`` each, and whatever else is known."""
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    width = max(len(str(entry["name"])) for entry in entries)
    for entry in entries:
        print(f"{entry['name']:<{width}}  {_line(entry)}")


def _line(entry: Entry) -> str:
    facts = [str(entry["summary"])]
    if entry.get("paper"):
        facts.append(f"({entry['paper']})")
    if isinstance(needs := entry.get("needs"), list):
        what = [*needs, *(["what the method needs that it wraps"] if entry.get("wraps") else [])]
        facts.append(f"needs {', '.join(what) or 'nothing'}")
    if isinstance(supports := entry.get("supports"), list) and supports:
        facts.append(f"({', '.join(supports)})")
    if entry.get("limits"):
        facts.append(str(entry["limits"]))
    return "  ".join(facts)
