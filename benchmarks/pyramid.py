"""A small thing in a large scene: the whole shrunk, its pyramid, and every tile of it.

    python -m data.generate --output runs/mosaics --split test --n 90 --kind mosaics
    python -m benchmarks.pyramid --n 90

The embedded model answers questions about one thing in mosaics of 2 x 2 to 4 x 4 scenes, each of
which is as large as what its tower is given. "whole": the image in one tile, all its tokens kept.
"pyramid": from one tile on, by the attention of a middle layer. "every tile": the finest level
alone, from which the same attention takes one tile.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from benchmarks.command import RESULTS, exit_status
from benchmarks.environment import environment
from rcp.atomic_write import atomic
from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.conversations.sample import LoadedSample
from rcp.conversations.source import open_conversations
from rcp.folder.read_write import load_plugin
from rcp.objectives.exact_match import is_right
from rcp.pyramid.answer import Answered, answer, input_side
from rcp.pyramid.attention import OwnAttention, Scorer
from rcp.pyramid.distilling import asked
from rcp.pyramid.focus import Focus
from rcp.pyramid.walk import Budget
from rcp.pyramid.windows import Whole

WHOLE, PYRAMID, EVERY = "whole", "pyramid", "every tile"
MOST = 10**6


@dataclass(frozen=True)
class Row:
    """Means over ``n`` questions: share answered rightly, tiles and pixels that were encoded,
    tokens of these, tokens that the answer was made of."""

    method: str
    accuracy: float
    tiles: float
    pixels: float
    tokens: float
    kept: float
    n: int


class Contest:
    """``model`` asked about one image after another, in each of the ways."""

    def __init__(self, model: Any, processor: Any, focus: Path | None) -> None:
        self.model, self.processor, self.side = model, processor, input_side(model)
        middle = len(backbone_for(model).layers) // 2
        self.scorers: dict[str, Scorer] = {"": OwnAttention(middle)}
        if focus is not None:
            self.scorers[", focus module"] = Focus(load_plugin(focus))

    def answers(self, item: LoadedSample) -> Iterator[tuple[str, Answered]]:
        """Of each way."""
        (image,) = item.images
        size = (self.side, self.side)
        shrunk = image.resize(size, Image.Resampling.BOX)
        yield WHOLE, self._answer(item, shrunk, Budget(share=1.0), self.scorers[""])
        for by, scorer in self.scorers.items():
            yield PYRAMID + by, self._answer(item, image, Budget(across=1), scorer)
            yield EVERY + by, self._answer(item, image, Budget(across=MOST), scorer)

    def _answer(
        self, item: LoadedSample, image: Image.Image, budget: Budget, scorer: Scorer
    ) -> Answered:
        return answer(
            self.model, self.processor, Whole(image), asked(item), scorer,
            side=self.side, budget=budget, max_new_tokens=8,
        )


def measure(contest: Contest, items: Sequence[LoadedSample]) -> list[Row]:
    """A row for each way."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for item in tqdm(items, unit="question"):
        for method, told in contest.answers(item):
            right = is_right(told.text, item.sample.answer)
            found.setdefault(method, []).append((
                right, told.tiles_encoded, told.pixels_encoded, told.tokens_encoded,
                told.tokens_kept,
            ))
    return [
        Row(method, *(round(sum(each) / len(each), 4) for each in zip(*values)), len(values))
        for method, values in found.items()
    ]


def page(rows: Sequence[Row], made: dict[str, str]) -> str:
    """Markdown."""
    return "\n".join([
        "# A small thing in a large scene, on the embedded model",
        "",
        f"{rows[0].n} questions about mosaics; means over them.",
        "",
        "| method | right | tiles encoded | pixels encoded | tokens encoded | tokens kept |",
        "|---|---:|---:|---:|---:|---:|",
        *(f"| {row.method} | {row.accuracy:.1%} | {row.tiles:.1f} | {row.pixels:.0f} | "
          f"{row.tokens:.0f} | {row.kept:.1f} |" for row in rows),
        "",
        "; ".join(f"{name}: {value}" for name, value in made.items()) + ".",
        "",
    ])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pyramid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base", default="data/tiny-vlm", help="the model that is asked")
    add("--data", default="runs/mosaics/test.json", help="questions about mosaics")
    add("--n", type=int, default=90, help="how many of them")
    add("--focus", type=Path, help="a trained focus module, which chooses tiles as well")
    add("--output", type=Path, default=RESULTS / "pyramid.json", help="where results go")
    options = parser.parse_args(arguments)

    def work() -> None:
        dataset = open_conversations(options.data, None)
        items = [dataset[number] for number in range(min(options.n, len(dataset)))]
        rows = measure(Contest(*load_base(options.base, "float32"), options.focus), items)
        made = environment(["python", "-m", "benchmarks.pyramid", *arguments])
        with atomic(options.output) as unfinished:
            table = [vars(row) for row in rows]
            unfinished.write_text(json.dumps({"made": made, "rows": table}, indent=1) + "\n")
        text = page(rows, made)
        options.output.with_suffix(".md").write_text(text)
        print(text)

    return exit_status("pyramid", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
