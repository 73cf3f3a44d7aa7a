"""Small commands: `python -m rcp pruners` and `python -m rcp backbones`."""

import argparse
import inspect
import json
from collections.abc import Sequence

from rcp.backbones.base import BACKBONES
from rcp.pruners import PRUNERS


def pruners() -> list[dict[str, object]]:
    """What there is to choose tokens with."""
    return [
        {
            "name": name,
            "summary": (inspect.getdoc(PRUNERS.get(name)) or "").partition("\n")[0],
            "paper": PRUNERS.get(name).paper,
            "needs": sorted(PRUNERS.get(name).needs),
            "trained": PRUNERS.get(name).learned,
        }
        for name in PRUNERS.names()
    ]


def backbones() -> list[dict[str, object]]:
    """Model families that plug-ins attach to, by ``config.model_type``."""
    return [
        {
            "name": name,
            "summary": BACKBONES.get(name).title,
            "limits": BACKBONES.get(name).limits,
        }
        for name in BACKBONES.names()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """List one kind of thing, a line each, or as JSON."""
    lists = {"pruners": pruners, "backbones": backbones}
    parser = argparse.ArgumentParser(prog="python -m rcp", description=__doc__)
    parser.add_argument("what", choices=lists, help="what to list")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    options = parser.parse_args(arguments)
    entries = lists[options.what]()
    if options.json:
        print(json.dumps(entries, indent=2))
        return
    width = max(len(str(entry["name"])) for entry in entries)
    for entry in entries:
        print(f"{entry['name']:<{width}}  {_line(entry)}")


def _line(entry: dict[str, object]) -> str:
    facts = [str(entry["summary"])]
    if entry.get("paper"):
        facts.append(f"({entry['paper']})")
    if isinstance(needs := entry.get("needs"), list):
        facts.append(f"needs {', '.join(needs) or 'nothing'}")
    if entry.get("limits"):
        facts.append(str(entry["limits"]))
    return "  ".join(facts)


if __name__ == "__main__":
    main()
