"""MiniCPM-V 4.7, which came with a later release than 4.6."""

from collections.abc import Sequence

from torch import Tensor
from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration

from .case import END, IMAGE, START, VIDEO, Sample
from .minicpm import inputs, minicpm


def typed_inputs(samples: Sequence[Sample], padding: str = "left") -> dict[str, Tensor]:
    """With a type for each token, by which 4.7 lays out its positions."""
    found = inputs(samples, padding)
    ids = found["input_ids"]
    return found | {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}


MARKERS = {
    "image_start_id": START,
    "image_end_id": END,
    "slice_start_id": 104,
    "slice_end_id": 105,
    "newline_id": 106,
}
ENTRY_CASES = {
    "minicpmv4_7": lambda: minicpm(
        MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration, typed_inputs, **MARKERS
    ),
}
