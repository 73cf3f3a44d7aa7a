"""From samples to the tensors a prefill takes, the images already encoded."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from rcp.attaching.given_images import encode_images
from rcp.conversations import (
    Batch,
    ConversationCollator,
    ConversationDataset,
    LoadedSample,
    on_device,
)
from rcp.conversations.unreadable import first_rows, read
from rcp.errors import UserError

logger = logging.getLogger(__name__)

NO_LIMIT = 2**31
"""No sample is left out for its length: every method must answer every question."""


class Preparation:
    """Renders, tokenises and encodes; one call makes the batch that all contestants share.

    ``encoder_options`` go to the model's image encoder. Images are encoded apart from the
    prefill, as ``generate`` does, so that the prefill can be timed alone.
    """

    def __init__(self, model: Any, processor: Any, **encoder_options: Any) -> None:
        self.model = model
        self.collate = ConversationCollator(processor, NO_LIMIT, with_answers=False)
        self.encoder_options = encoder_options

    def __call__(self, samples: Sequence[LoadedSample]) -> Batch:
        batch = on_device(self.collate(samples), self.model.device)
        batch["inputs"] = with_encoded_images(self.model, batch["inputs"], **self.encoder_options)
        return batch


def sees_the_middle(processor: Any) -> bool:
    """Whether all that a model sees of an image is its middle square."""
    images = getattr(processor, "image_processor", None)
    return bool(getattr(images, "do_center_crop", False))


def with_encoded_images(model: Any, inputs: dict[str, Tensor], **options: Any) -> dict[str, Any]:
    """``inputs`` with the pixels replaced by the image features that ``forward`` takes instead.

    What comes with the pixels stays: M-RoPE reads its positions from the shapes of the images.
    Unchanged where there is no image, or where this version of the model takes pixels only: its
    prefill then includes the vision tower.
    """
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return inputs
    features = encode_images(model, inputs, **options)
    if features is None:
        return inputs
    rest = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
    return rest | {"mm_encoder_outputs": {"image": features}}


def conversation_batches(
    processor: Any, dataset: ConversationDataset, limit: int, size: int, *, with_answers: bool
) -> Iterator[Batch]:
    """The first ``limit`` rows in batches of ``size``, images not encoded.

    Those that cannot be read are left out with a warning; raises ``UserError`` if all are.
    """
    collate = ConversationCollator(processor, NO_LIMIT, with_answers)
    asked, faults = first_rows(dataset, limit)
    readable = 0
    for start in range(0, len(asked), size):
        found = read(dataset, asked[start : start + size], collate)
        faults += found.faults
        if found.batch is not None:
            readable += len(found.items)
            yield found.batch
    if faults:
        told = f"{len(faults)} of {len(faults) + readable} samples cannot be read. {faults[0]}"
        if not readable:
            raise UserError(told)
        logger.warning("%s", told)
