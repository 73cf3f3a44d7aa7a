"""How many errors the tests have caught, room by room: plain values, and a page of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.mutation.mutants import Mutant

ENOUGH = 0.9
"""The share of the mutants that change something which must be caught."""


def score(
    rooms: Mapping[str, Sequence[Mutant]], results: Mapping[str, str], equivalent: Mapping[str, str]
) -> dict[str, Any]:
    """Of the mutants drawn in each of ``rooms``, by ``results``: "caught" or "survived" by name.

    ``equivalent`` says of mutants why they change nothing: these are not counted.
    """
    drawn = [mutant for room in rooms.values() for mutant in room]
    total = _counts(drawn, results, equivalent)
    return {
        "share_caught": round(total["caught"] / max(1, total["caught"] + total["survived"]), 4),
        "rooms": {
            name: _counts(room, results, equivalent) for name, room in rooms.items()
        } | {"all": total},
        "survived": [
            mutant.name for mutant in drawn if _verdict(mutant, results, equivalent) == "survived"
        ],
        "equivalent": {
            mutant.name: equivalent[mutant.name] for mutant in drawn if mutant.name in equivalent
        },
    }


def page(found: Mapping[str, Any]) -> str:
    """Markdown of what :func:`score` has found."""
    lines = [
        "| room | drawn | caught | survived | equivalent |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for room, counts in found["rooms"].items():
        lines.append(
            f"| {room} | {sum(counts.values())} | {counts['caught']} | {counts['survived']} | "
            f"{counts['equivalent']} |"
        )
    lines += ["", f"Caught of those that change something: {found['share_caught']:.1%}."]
    if found["survived"]:
        lines += ["", "Survived:", "", *(f"- `{name}`" for name in found["survived"])]
    if found["equivalent"]:
        lines += ["", "Equivalent, so that no test can tell:", ""]
        lines += [f"- `{name}`: {why}" for name, why in found["equivalent"].items()]
    return "\n".join(lines) + "\n"


def _counts(
    drawn: Sequence[Mutant], results: Mapping[str, str], equivalent: Mapping[str, str]
) -> dict[str, int]:
    verdicts = [_verdict(mutant, results, equivalent) for mutant in drawn]
    return {name: verdicts.count(name) for name in ("caught", "survived", "equivalent")}


def _verdict(mutant: Mutant, results: Mapping[str, str], equivalent: Mapping[str, str]) -> str:
    return "equivalent" if mutant.name in equivalent else results[mutant.name]
