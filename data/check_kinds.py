"""A model on every kind of questions, each with its own metrics: a JSON file and a table beside it.

Beside the score of a kind stand what it is on grey images, with a random ninth of the visual tokens
before the decoder, and of the best constant answer to each type, all on the same questions.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from data.answering import Shown, answered
from data.drawing import draw_scene
from data.generate import SCENES, asked, conversation
from data.kinds import KINDS, captions
from data.kinds.example import Example, Kind, guessed, same
from rcp.atomic_write import atomic
from rcp.evaluation.metrics.anls import Anls
from rcp.evaluation.metrics.grounding import BoxAccuracy, box_of
from rcp.evaluation.report.tables import markdown

GREY, KEPT = 128, 1 / 9
LONGEST = 64  # tokens; a description of 14 objects has 56
Measured = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def _scenes(split: str, seed: int) -> Iterator[Example]:
    for _, scene, question in asked(split, seed):
        yield Example(question.type, (draw_scene(scene),), (conversation(question),))


def _anls(said: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    metric = Anls()
    metric.update(said, [[answer] for answer in answers])
    return {"anls": metric.compute()["anls"].item()}


def _boxes(said: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    metric = BoxAccuracy()
    metric.update(said, [box for answer in answers if (box := box_of(answer)) is not None])
    return {name: value.item() for name, value in metric.compute().items() if name != "accuracy"}


def _things(said: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Over all answers together: shares of what is said that is there, and the other way round."""
    pairs = [captions.overlap(text, answer) for text, answer in zip(said, answers)]
    both, named, there = (sum(column) for column in zip(*pairs))
    return {"precision": both / named if named else 1.0, "recall": both / there}


ALL = {SCENES: Kind(SCENES, _scenes, same), **KINDS}
SCORES = {"places": "IoU >= 0.5", "captions": "F1"}  # of the others: exact match
FURTHER: dict[str, Measured] = {"strings": _anls, "places": _boxes, "captions": _things}


def measured(model: LlavaForConditionalGeneration, processor: transformers.ProcessorMixin,
             kind: Kind, n: int, seed: int, split: str) -> dict[str, Any]:
    """Scores in percent of ``n`` questions; of a dialogue the last one, after the true answers."""
    examples = list(islice(kind.examples(split, seed), n))
    answers = [example.turns[-1][1] for example in examples]
    shown: list[Shown] = [([Image.fromarray(image) for image in example.images], example.turns)
                          for example in examples]
    blank: list[Shown] = [([Image.new("RGB", image.size, (GREY,) * 3) for image in images], turns)
                          for images, turns in shown]

    def ask(them: Sequence[Shown], keep: float | None = None) -> list[str]:
        return answered(model, processor, them, LONGEST, keep, seed)

    said = ask(shown)
    best, types = guessed(kind, examples), [example.type for example in examples]
    further = FURTHER[kind.name](said, answers) if kind.name in FURTHER else {}
    return {
        "metric": SCORES.get(kind.name, "exact match"),
        "score": _mean(kind, said, answers),
        **{name: round(100 * value, 2) for name, value in further.items()},
        "blank": _mean(kind, ask(blank), answers),
        "random_ninth": _mean(kind, ask(shown, KEPT), answers),
        "constant": round(100 * sum(best[type] for type in types) / n, 2),
        "by_type": {type: _mean(kind, *zip(*(pair for pair, its in zip(zip(said, answers), types)
                                             if its == type))) for type in sorted(best)},
    }


def _mean(kind: Kind, said: Sequence[str], answers: Sequence[str]) -> float:
    scores = [kind.score(text, answer) for text, answer in zip(said, answers)]
    return round(100 * sum(scores) / len(scores), 2)


def check_kinds(folder: Path, output: Path, n: int, seed: int, split: str) -> None:
    """Measure ``folder`` and write ``output`` after each kind, and the table with it.

    Kinds that ``output`` has of the same weights and questions are not measured again.
    """
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    of = {"model": str(folder), "weights": weights, "n": n, "seed": seed, "split": split}
    before = json.loads(output.read_text()) if output.exists() else {}
    fits = all(before.get(name) == value for name, value in of.items())
    kinds: dict[str, Any] = before["kinds"] if fits else {}
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    for name, kind in ALL.items():
        if name not in kinds:
            kinds[name] = measured(model, processor, kind, n, seed, split)
            result = {
                **of, "kinds": kinds,
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                             "python": platform.python_version()},
                "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
                "command": " ".join(["python -m data.check_tiny_vlm", *sys.argv[1:]]),
            }
            _write(output, json.dumps(result, indent=2) + "\n")
            _write(output.with_suffix(".md"), page(result))
    print(output.with_suffix(".md").read_text())


def _write(path: Path, text: str) -> None:
    with atomic(path) as unfinished:
        unfinished.write_text(text)


def page(result: dict[str, Any]) -> str:
    """What ``output`` holds, as a table of kinds and one of types."""
    kinds = [["kind", "metric", "score", "grey images", "a random ninth", "best constant", "also"]]
    types = [["kind", "type", "score"]]
    for name, of in result["kinds"].items():
        also = ", ".join(f"{key} {of[key]:.1f}" for key in of if key not in _COLUMNS)
        kinds.append([name, of["metric"], *(f"{of[key]:.1f}" for key in (
            "score", "blank", "random_ninth", "constant")), also])
        types += [[name, type, f"{score:.1f}"] for type, score in of["by_type"].items()]
    lines = [f"# {result['model']} on every kind of questions", "",
             f"In percent, of {result['n']} questions of the split {result['split']} each; made by "
             f"`{result['command']}`.", "", markdown(kinds), "", markdown(types), ""]
    return "\n".join(lines)


_COLUMNS = {"metric", "score", "blank", "random_ninth", "constant", "by_type"}
