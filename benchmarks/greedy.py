"""Time the greedy selector against reducing over all chosen rows anew.

    python -m benchmarks.greedy

DivPrune's max-min loop on one CPU thread, both ways on the same distances, taking turns within one
run; writes benchmarks/results/greedy.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.command import RESULTS
from benchmarks.environment import environment
from rcp.choosing.greedy import cosines, greedy, max_min

CASES = {(576, 64): 4.0, (2880, 640): 10.0}
"""(tokens, kept): the ratio that is asked for."""


def re_reducing(first: Tensor, distance: Tensor, count: int) -> Tensor:
    """Max-min picks of one sample, each by a vectorised minimum over the rows chosen so far.

    ``first`` (N,) is what tokens are worth before the first pick, ``distance`` (N, N); returns
    ``count`` indices in the order of picking.
    """
    chosen = [first.argmax()]
    taken = torch.zeros(len(first), dtype=torch.bool)
    taken[chosen[0]] = True
    while len(chosen) < count:
        worth = distance[torch.stack(chosen)].amin(0).masked_fill_(taken, -torch.inf)
        chosen.append(worth.argmax())
        taken[chosen[-1]] = True
    return torch.stack(chosen)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one run: on one thread it is the time taken, less what others took meanwhile."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measured(tokens: int, count: int, rounds: int) -> dict[str, float]:
    """Median CPU time of both ways over ``rounds``, and the median of the ratio within a round.

    Whatever both need once is left out of both: distances, and what goes before the first pick.
    """
    vectors = torch.randn(1, tokens, 256, generator=torch.Generator().manual_seed(tokens))
    distance = 1 - cosines(vectors)
    alive = torch.ones(1, tokens, dtype=torch.bool)
    counts = torch.tensor([count])
    ours, others = [], []
    for _ in range(rounds):
        first, after = max_min(distance.clone(), alive)
        ours.append(seconds(lambda: greedy(first, after, alive, counts, count)))
        others.append(seconds(lambda: re_reducing(first[0], distance[0], count)))
    first, after = max_min(distance.clone(), alive)
    kept = greedy(first, after, alive, counts, count)[0].nonzero()[:, 0]
    others_kept = re_reducing(first[0], distance[0], count).sort().values
    assert torch.equal(kept, others_kept), "different picks"
    return {
        "tokens": tokens,
        "kept": count,
        "greedy_ms": round(1e3 * statistics.median(ours), 3),
        "re_reducing_ms": round(1e3 * statistics.median(others), 3),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, others)), 2),
        "asked": CASES[tokens, count],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.greedy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="both ways in each (default: 15)")
    parser.add_argument("--output", type=Path, default=RESULTS / "greedy.json",
                        help="where the times go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(tokens, count, options.rounds) for tokens, count in CASES]
    for row in rows:
        print(row)
    found = environment(["python", "-m", "benchmarks.greedy"]) | {"rows": rows}
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
