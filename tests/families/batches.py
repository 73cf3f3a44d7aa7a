"""Batches every family is tried with, and the columns of theirs whose logits mean something."""

from torch import Tensor

from rcp.backbones import Backbone

from . import upstream
from .case import Case, Sample

BATCHES = {
    "ragged": (Sample(3, images=2), Sample(4, question=3), Sample(5, images=0)),
    "even": (Sample(0), Sample(1, question=9)),
}


def batches_of(case: Case) -> dict[str, tuple[Sample, ...]]:
    """With one of videos for a family that understands them, if this release's model does."""
    tried = case.videos and case.model.config.model_type not in upstream.CLIPS
    return BATCHES | ({"video": videos_of(case)} if tried else {})


def videos_of(case: Case) -> tuple[Sample, ...]:
    """A video, beside an image if the family bears it."""
    return Sample(6, video=True), Sample(7, video=not case.mixed)


def text_of(inputs: dict[str, Tensor], backbone: Backbone) -> Tensor:
    """(B, T) the valid columns that are no image."""
    image = backbone.image_rows(inputs["input_ids"], None)
    return inputs["attention_mask"].bool() & ~image
