"""From samples to the tensors a prefill takes, the images already encoded."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rcp.conversations import Batch, ConversationCollator, LoadedSample

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
        batch = self.collate(samples)
        inputs = {name: value.to(self.model.device) for name, value in batch["inputs"].items()}
        batch["inputs"] = with_encoded_images(self.model, inputs, **self.encoder_options)
        return batch


@torch.no_grad()
def with_encoded_images(model: Any, inputs: dict[str, Tensor], **options: Any) -> dict[str, Any]:
    """``inputs`` with the pixels replaced by the image features that ``forward`` takes instead.

    Unchanged where there is no image, or where this version of the model takes pixels only: its
    prefill then includes the vision tower.
    """
    taken = inspect.signature(model.forward).parameters
    encode = getattr(model.base_model, "get_image_features", None)
    if "pixel_values" not in inputs or "mm_encoder_outputs" not in taken or encode is None:
        return inputs
    names = inspect.signature(encode).parameters
    pixels = {name: value for name, value in inputs.items() if name in names}
    rest = {name: value for name, value in inputs.items() if name not in names}
    return rest | {"mm_encoder_outputs": {"image": encode(**pixels, **options, return_dict=True)}}
