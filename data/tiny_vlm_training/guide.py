"""A hint for two-step questions: say early on what to look for.

"The object left of the star" is found by a token that says "a star is on my right", but nothing
rewards forming that search key before the search works, nor the search before the key is formed.
While this loss is on, the row that answers must hold the key after the trunk's second layer,
told apart from the keys of all other directions and shapes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from data.scenes import DIRECTIONS, SHAPES
from data.tiny_vlm_training.settings import WIDTH

GUIDED_LAYER = 1
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
NO_KEY = -1


def key_of(text: str) -> int:
    """The index among (direction, shape) that a question is about, or NO_KEY."""
    words = text.split()
    shape = next((word for word in reversed(words) if word in SHAPES), None)
    for index, direction in enumerate(DIRECTIONS):
        if direction in words and shape is not None:
            return index * len(SHAPES) + SHAPES.index(shape)
    return NO_KEY


class KeyGuide:
    """Reads the guided layer's output through a hook, for one model."""

    def __init__(self, model: LlavaForConditionalGeneration, tables: dict[str, torch.Tensor],
                 ) -> None:
        # The object left of the star is the one whose *right* neighbour is the star.
        keys = torch.cat([tables[OPPOSITE[direction]][1:] for direction in DIRECTIONS])
        self._keys = F.normalize(keys, dim=-1)  # (directions * shapes, width)
        self._output = torch.empty(0)
        layer = model.model.language_model.layers[GUIDED_LAYER]
        self._handle = layer.register_forward_hook(self._remember)

    def _remember(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        self._output = output

    def remove(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def loss(self, answer_rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the keys (q,) held by the rows; answer_rows: (n, slots) mask, q True."""
        hidden = self._output[:, -answer_rows.shape[1]:][answer_rows][keys != NO_KEY]
        scores = F.normalize(hidden, dim=-1) @ self._keys.to(hidden.device).T
        return F.cross_entropy(WIDTH ** 0.5 * scores, keys[keys != NO_KEY])
