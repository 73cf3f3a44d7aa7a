"""`python -m data.guess_kinds`: what the best constant answer scores in each kind of question."""

from __future__ import annotations

from itertools import islice

from data.kinds import KINDS
from data.kinds.example import guessed

EXAMPLES = 300


def main() -> None:
    """Print, of the test split, the type of each kind that is easiest to guess."""
    for kind in KINDS.values():
        shares = guessed(kind, list(islice(kind.examples("test", 0), EXAMPLES)))
        type = max(shares, key=lambda name: shares[name])
        print(f"{kind.name}: {shares[type]:.0%} ({type})")


if __name__ == "__main__":
    main()
