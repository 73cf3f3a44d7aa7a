"""Image features outside the forward that would compute them: encoded once, used by many."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.encoder_watch import hand_over
from rcp.attaching.stand_in import StandIn
from rcp.backbones import unwrapped

ENCODER = "get_image_features"
"""Method of the model without its head, the same in all families: from pixels to features."""

UNREAD = ("hidden_states", "attentions")

BY_LAYER = "deepstack_features"
"""Features that some families add behind the first layers, for each of them."""


@torch.no_grad()
def encode_images(model: Any, inputs: Mapping[str, Tensor], **options: Any) -> Any:
    """What the model's image encoder and projector give for ``inputs``, a ``ModelOutput``.

    ``options`` go to the encoder. None where there is no image, or no such encoder.
    """
    encode = getattr(unwrapped(model).base_model, ENCODER, None)
    if encode is None or "pixel_values" not in inputs:
        return None
    features = encode(**encoder_inputs(encode, inputs), **options, return_dict=True)
    # every layer's states would be kept as long as the features, and nobody reads them
    kept = type(features)(**{k: v for k, v in features.items() if k not in UNREAD})
    return hand_over(features, kept)


def encoder_inputs(encode: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``inputs`` that the image encoder takes."""
    names = inspect.signature(encode).parameters
    return {name: value for name, value in inputs.items() if name in names}


@contextmanager
def given_images(model: Any, features: Any) -> Iterator[None]:
    """Inside, ``model`` takes ``features`` for the images of any forward, and encodes none.

    ``features`` as :func:`encode_images` gives them; None changes nothing. The pixels are handed
    to the forward as ever: families read shapes and positions from what comes with them.
    """
    if features is None:
        yield
        return

    def given(*_: Any, **__: Any) -> Any:
        return copy.copy(features)  # a host may write into what it is given

    stand_in = StandIn(unwrapped(model).base_model, ENCODER, given)
    try:
        yield
    finally:
        stand_in.undo()


def repeated_images(features: Any, times: int) -> Any:
    """``features`` of a batch that holds its samples ``times`` over, one whole batch after another.

    As :func:`encode_images` gives them; None stays None.
    """
    if features is None:
        return None
    found = {name: _repeated(value, times) for name, value in features.items()
             if name != BY_LAYER}
    if BY_LAYER in features:
        found[BY_LAYER] = [_repeated(layer, times) for layer in features[BY_LAYER]]
    return type(features)(**found)


def _repeated(value: Any, times: int) -> Any:
    """A tensor whose first dimension, or a sequence which, goes through the images."""
    return torch.cat([value] * times) if isinstance(value, Tensor) else [*value] * times
