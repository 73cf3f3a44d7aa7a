"""A hint for two-step questions: what to look for, and where it is.

"The object left of the star" is found by a token that says "a star is on my right", but nothing
rewards forming that search key before the search works, nor the search before the key is formed.
While these losses are on, the row that answers must hold the key after the trunk's second layer,
told apart from the keys of all other directions and shapes, and one head of a later layer must
look from that row at the tokens of the object meant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from data.labels import CELL_OF_PATCH
from data.scenes import DIRECTIONS, PATCHES, SHAPES, Scene, neighbour
from data.tiny_vlm_training.settings import TRUNK_LAYERS, WIDTH

KEY_LAYER, SEARCH_LAYER, SEARCH_HEAD = 1, 3, 0  # layers of the trunk, before growth
KEY_WEIGHT = SEARCH_WEIGHT = 0.3
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
NOTHING = -1


def key_of(text: str) -> int:
    """The index among (direction, shape) that a question is about, or NOTHING."""
    words = text.split()
    shape = next((word for word in reversed(words) if word in SHAPES), None)
    for index, direction in enumerate(DIRECTIONS):
        if direction in words and shape is not None:
            return index * len(SHAPES) + SHAPES.index(shape)
    return NOTHING


def cell_of(key: int, scene: Scene) -> int:
    """The cell of the object that a key means in a scene, or NOTHING."""
    if key == NOTHING:
        return NOTHING
    direction, shape = DIRECTIONS[key // len(SHAPES)], key % len(SHAPES)
    cell = neighbour(int((scene.shape == shape).argmax()), direction)
    return NOTHING if cell is None else cell


class Guide:
    """Reads two layers of one model through hooks."""

    def __init__(self, model: LlavaForConditionalGeneration, tables: dict[str, torch.Tensor],
                 ) -> None:
        # The object left of the star is the one whose *right* neighbour is the star.
        keys = torch.cat([tables[OPPOSITE[direction]][1:] for direction in DIRECTIONS])
        self._keys = F.normalize(keys, dim=-1)  # (directions * shapes, width)
        self._held = torch.empty(0)
        layers = model.model.language_model.layers
        spread = len(layers) // TRUNK_LAYERS  # where growth has put the trunk's layers
        self._attention: Any = layers[SEARCH_LAYER * spread].self_attn
        self._seen: dict[str, Any] = {}
        self._handles = [
            layers[KEY_LAYER * spread].register_forward_hook(self._remember_output),
            self._attention.register_forward_pre_hook(self._remember_input, with_kwargs=True)]

    def _remember_output(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        self._held = output

    def _remember_input(self, _module: object, _inputs: object, keywords: dict[str, Any]) -> None:
        self._seen = keywords

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def loss(self, answer_rows: torch.Tensor, keys: torch.Tensor, cells: torch.Tensor,
             ) -> torch.Tensor:
        """answer_rows: (n, slots) mask with q True; keys, cells: (q,)."""
        asked = keys != NOTHING
        if not asked.any():
            return self._held.new_zeros(())
        held = self._held[:, -answer_rows.shape[1]:][answer_rows][asked]
        scores = F.normalize(held, dim=-1) @ self._keys.to(held.device).T
        key_loss = F.cross_entropy(WIDTH ** 0.5 * scores, keys[asked])
        return KEY_WEIGHT * key_loss + SEARCH_WEIGHT * self._search(answer_rows, asked, cells)

    def _search(self, answer_rows: torch.Tensor, asked: torch.Tensor, cells: torch.Tensor,
                ) -> torch.Tensor:
        """Minus the log of the guided head's attention to the tokens of the object meant."""
        hidden, rope = self._seen["hidden_states"], self._seen["position_embeddings"]
        slots, shared = answer_rows.shape[1], hidden.shape[1] - answer_rows.shape[1]
        query = self._head(self._attention.q_proj, hidden[:, -slots:], rope, slice(shared, None))
        key = self._head(self._attention.k_proj, hidden[:, :shared], rope, slice(shared))
        image = answer_rows.nonzero()[:, 0][asked]
        scores = torch.einsum("qd,qtd->qt", query[answer_rows][asked], key[image])
        scores = scores * self._attention.scaling
        wanted = torch.zeros_like(scores, dtype=torch.bool)
        cell_of_patch = torch.as_tensor(CELL_OF_PATCH, device=cells.device)
        wanted[:, -PATCHES * PATCHES:] = cell_of_patch == cells[asked][:, None]
        return (scores.logsumexp(1) - scores.masked_fill(~wanted, -torch.inf).logsumexp(1)).mean()

    def _head(self, projection: Any, rows: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor],
              where: slice) -> torch.Tensor:
        """(n, rows, d) rotated vectors of the guided head."""
        size = self._attention.head_dim
        head = projection(rows)[..., SEARCH_HEAD * size:(SEARCH_HEAD + 1) * size][:, None]
        cos, sin = (part[:, where] for part in rope)
        return apply_rotary_pos_emb(head, head, cos, sin)[0][:, 0]
