"""What an evaluation leaves behind, made up: rows, answers, times and images in a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from rcp.evaluation.report.samples import SAMPLES, TIMES

SIDE, LAYERS, STAGES = 4, 6, (1, 3)
TOKENS = SIDE * SIDE
KEPT = {"rcp": ([0, 1, 4, 5, 6, 7, 10, 15], [1, 6, 15]), "random": (list(range(8)), [0, 3, 5])}
KINDS = ("counting", "region")
SEEDS = {"full": 1, "rcp": 2, "blank_image": 1, "random": 2}

Line = dict[str, Any]


def rows() -> list[Line]:
    """Four contestants; ``rcp`` keeps nine in ten of the full model's."""
    return [row("full", 0.8, 16.0), row("rcp", 0.72, 5.5), row("blank_image", 0.2, 16.0),
            row("random", 0.44, 5.5)]


def row(method: str, accuracy: float, tokens: float) -> Line:
    visual = [TOKENS, 8, 8, 3, 3, 3] if tokens < TOKENS else [TOKENS] * LAYERS
    return {
        "method": method, "accuracy": accuracy, "accuracy_std": 0.0,
        "by_type": {"counting": accuracy - 0.1, "region": accuracy + 0.1},
        "retained": accuracy / 0.8, "mean_tokens": tokens, "entering_tokens": 16.0,
        "flops": 1e8 * tokens, "kv_bytes": 2048 * tokens, "prefill_speedup": 16 / tokens,
        "seeds": SEEDS[method], "n": 30, "unreadable": [],
        "interval": None if method == "full" else [accuracy - 0.9, accuracy - 0.7],
        "mcnemar_p": None if method == "full" else 0.03,
        "figures": {"accuracy": accuracy, "accuracy_region": None},
        "tokens_per_layer": visual, "kv_bytes_per_layer": [512 * n for n in visual],
    }


def answers(samples: int = 30) -> list[Line]:
    """Every contestant's; of ten samples ``rcp`` loses one, gains one and rewords one."""
    return [
        answer(contestant, seed, index)
        for contestant, seeds in SEEDS.items()
        for seed in range(seeds)
        for index in range(samples)
    ]


def answer(contestant: str, seed: int, index: int) -> Line:
    full = {"answer": "two" if index % 10 == 4 else "red", "score": float(index % 10 != 4)}
    changed = {3: {"answer": "two", "score": 0.0}, 4: {"answer": "red", "score": 1.0},
               7: {"answer": "Red.", "score": 1.0}}
    said = {"full": full, "rcp": changed.get(index % 10, full)}.get(
        contestant, {"answer": "dark", "score": 0.0}
    )
    centres = [(2 * at + 1) / SIDE - 1 for at in range(SIDE)]
    seen = {"places": [[y, x] for y in centres for x in centres], "image_index": [0] * TOKENS}
    return {
        "contestant": contestant, "seed": seed, "index": index, "id": f"sample-{index}",
        "image": [f"images/{index % 5}.png"], "question": f"what colour is shape {index} ?",
        "type": KINDS[index % 2], "references": ["red", "crimson"], **said,
        "visual_tokens": TOKENS,
        "layers": list(STAGES) if contestant in KEPT else [],
        "kept": list(KEPT.get(contestant, [])),
        **(seen if contestant == "full" else {"places": None, "image_index": None}),
    }


def write_evaluation(
    folder: Path, lines: list[Line] | None = None, about: Line | None = None
) -> Path:
    """All files of it in ``folder``; returns the path of the rows. ``about`` adds to what is
    recorded of the command."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(5):
        pixels = np.random.default_rng(number).integers(60, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / "images" / f"{number}.png")
    path = folder / "rows.json"
    path.write_text(json.dumps(rows()))
    recorded = {
        "command": "python evaluate.py --plugin runs/plugin --data 'some questions.json'",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "data": "some questions.json", "image_folder": str(folder), "base": "data/tiny-vlm",
        **(about or {}),
    }
    lines = answers() if lines is None else lines
    metadata = {key: json.dumps(value) for key, value in recorded.items()}
    write_table(lines, SAMPLES.with_metadata(metadata), folder / "rows.samples.parquet")
    taken = [
        {name: line[name] for name in ("contestant", "seed", "index")}
        | {"milliseconds": 40.0 if line["contestant"] == "full" else 10.0 + line["index"]}
        for line in lines
    ]
    write_table(taken, TIMES, folder / "rows.times.parquet")
    return path


def write_table(lines: list[Line], schema: pa.Schema, path: Path) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(lines, schema=schema), path)


def diagnosis() -> Line:
    """As `python -m rcp diagnose` writes it, of a plug-in that halves every gap."""
    gaps = [{"mean_gap": 0.2 * n, "variance_gap": 0.1 * n, "w2": 0.3 * n} for n in range(LAYERS)]
    return {
        "layers": [
            {"layer": layer, "before": gap, "correlation_with_loss": 0.25,
             "after": {name: value / 2 for name, value in gap.items()}}
            for layer, gap in enumerate(gaps)
        ],
        "stages": [
            {"layer": layer, "survivors_that_are_sinks": 0.5, "sinks_that_survive": 0.25}
            for layer in STAGES
        ],
        "samples": 30,
        "sink_multiple": 5.0,
    }
