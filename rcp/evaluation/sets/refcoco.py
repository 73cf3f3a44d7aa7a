"""RefCOCO, RefCOCO+ and RefCOCOg: where is what an expression speaks of?"""

from typing import Any

from rcp.conversations.asked import Asked
from rcp.conversations.images import opened
from rcp.conversations.layouts import Refused, Row
from rcp.conversations.rows import image_source, own_id
from rcp.evaluation.sets.asking import asked
from rcp.evaluation.sets.base import EvaluationSet, Hub
from rcp.evaluation.sets.fields import image, texts
from rcp.quoting import plain, quoted

TASK = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, "
    "bottom-right x, bottom-right y). All values are floating point numbers bounded between 0 and "
    "1. Please provide the bounding box coordinate of the region this sentence describes: "
)
BOTH = "the hub's val holds those of both partitions, UNC's and Google's, by its number of rows"


class _Expressions(EvaluationSet):
    """A row is an object; each of its expressions is a question of its own."""

    prompt = TASK + "{expression}"
    prompt_source = "lmms-eval, tasks/refcoco/utils_rec.py"
    metric = "box_accuracy"
    primary = "accuracy"
    parsing = (
        "the first four numbers in brackets, as shares of width and height; without them the box "
        "is all zeros, and so wrong"
    )
    max_new_tokens = 64
    columns = frozenset({"bbox", "image"})  # the box is in pixels, and only the image has its size
    unverified = "generation length: lmms-eval sets none"

    def questions(self, row: Row) -> list[Asked]:
        held = image(row)
        box = shares(row.get("bbox"), self._size(held))
        name = own_id(row)
        return [
            asked(
                row,
                TASK + expression,
                "[" + ", ".join(f"{edge:.3f}" for edge in box) + "]",
                {"references": box},
                images=[held],
                name=None if name is None else f"{name}/{number}",
            )
            for number, expression in enumerate(texts(row, "answer"))
        ]

    def _size(self, held: Any) -> tuple[int, int]:
        try:
            return opened(image_source(held, self.image_path)).size
        except Refused:
            raise
        except Exception as error:  # Pillow raises a dozen kinds for a damaged file
            raise Refused(
                f"has an image that cannot be read ({plain(error) or type(error).__name__}), so "
                "that its box has no measure. Replace the image or remove the sample."
            ) from error


def shares(box: Any, size: tuple[int, int]) -> tuple[float, ...]:
    """(x, y, width, height) in pixels as shares (x1, y1, x2, y2) of an image of this size."""
    if not isinstance(box, list) or [type(edge) in (int, float) for edge in box] != [True] * 4:
        raise Refused(
            f"has the box {quoted(box)}, where four numbers are needed: x, y, width and height in "
            "pixels, under 'bbox'. Get the row anew, or remove it."
        )
    x, y, width, height = box
    return x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1]


class RefCocoVal(_Expressions):
    """RefCOCO, validation."""

    name = "refcoco_val"
    title = "RefCOCO, val"
    hub = Hub("lmms-lab/RefCOCO", "val")
    rows = 8_811
    unverified = BOTH


class RefCocoTestA(_Expressions):
    """RefCOCO, people."""

    name = "refcoco_testA"
    title = "RefCOCO, testA (people)"
    hub = Hub("lmms-lab/RefCOCO", "testA")
    rows = 1_975


class RefCocoTestB(_Expressions):
    """RefCOCO, other objects."""

    name = "refcoco_testB"
    title = "RefCOCO, testB (other objects)"
    hub = Hub("lmms-lab/RefCOCO", "testB")
    rows = 1_810


class RefCocoPlusVal(_Expressions):
    """RefCOCO+, validation."""

    name = "refcoco+_val"
    title = "RefCOCO+, val"
    hub = Hub("lmms-lab/RefCOCOplus", "val")
    rows = 3_805


class RefCocoPlusTestA(_Expressions):
    """RefCOCO+, people."""

    name = "refcoco+_testA"
    title = "RefCOCO+, testA (people)"
    hub = Hub("lmms-lab/RefCOCOplus", "testA")
    rows = 1_975


class RefCocoPlusTestB(_Expressions):
    """RefCOCO+, other objects."""

    name = "refcoco+_testB"
    title = "RefCOCO+, testB (other objects)"
    hub = Hub("lmms-lab/RefCOCOplus", "testB")
    rows = 1_798


class RefCocoGVal(_Expressions):
    """RefCOCOg, validation."""

    name = "refcocog_val"
    title = "RefCOCOg, val"
    hub = Hub("lmms-lab/RefCOCOg", "val")
    rows = 7_573
    unverified = f"the last two digits of the number of rows; {BOTH}"


class RefCocoGTest(_Expressions):
    """RefCOCOg, test."""

    name = "refcocog_test"
    title = "RefCOCOg, test"
    hub = Hub("lmms-lab/RefCOCOg", "test")
    rows = 5_023
    unverified = "the last two digits of the number of rows"
