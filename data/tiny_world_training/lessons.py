"""What the tower learns beside the questions: the letters of signs, and the edges of objects.

The answers alone teach that slowly, because the tower has to show it before the decoder can ask
for it. The tower alone is cheap, and every token has a label. Letters are read by the word vectors
that the decoder searches for. So is what tokens showed before, which they go on to show, and an
anchor keeps them near what they were: the decoder shall still read them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data.drawing import PITCH, box_of, draw_scene
from data.kinds.strings import LENGTHS, Sign, signs
from data.labels import CELL_OF_PATCH, stack_labels
from data.scenes import CELL, GRID, IMAGE_SIZE, LETTERS, PATCH, PATCHES, Scene, sample_scenes
from data.tiny_vlm_training.packing import IGNORE, TOKENS
from data.tiny_vlm_training.projector import READOUT_SCALE, label_vectors, readout
from data.tiny_vlm_training.settings import WIDTH
from data.tiny_vlm_training.tower import to_pixels

COLUMNS = (2, 5)  # of a token's 8 pixels: the upper one shows the letter here, the lower one there
NO_SIGN = 0  # the place of a token that shows none; the first letter has place 1
NO_SIGN_WEIGHT = 0.1
ANCHOR_WEIGHT = 0.3  # at 1, tokens never show where they are


@dataclass
class Lesson:
    """pixels: (2 * n, 3, 96, 96), n signs, then n scenes; letters, places: (n, 144);
    edges: (n, 144, 4) pixels, IGNORE where there is no object; shown: (n, 144, names), what
    data.labels says of the scenes."""

    pixels: torch.Tensor
    letters: torch.Tensor
    places: torch.Tensor
    edges: torch.Tensor
    shown: torch.Tensor


def sign_labels(sign: Sign) -> tuple[np.ndarray, np.ndarray]:
    """(144,) letters, IGNORE off the plate, and (144,) places in the word.

    Up to five letters share four tokens a line: the upper tokens show those further left.
    """
    letters, places = np.full(TOKENS, IGNORE), np.full(TOKENS, NO_SIGN)
    many = len(sign.letters)
    width = PITCH * many + 2
    inset = (2 * CELL - width) // 2
    top, left = (part * (CELL // PATCH) for part in divmod(sign.cell, GRID))
    for line, column in enumerate(COLUMNS):
        for token in range(2 * CELL // PATCH):
            x = PATCH * token + column - inset
            if 0 <= x < width:
                place = min(max(0, (x - 2) // PITCH), many - 1)
                patch = (top + line) * PATCHES + left + token
                letters[patch] = LETTERS.index(sign.letters[place])
                places[patch] = place + 1
    return letters, places


def edge_labels(scene: Scene) -> np.ndarray:
    """(144, 4): left, top, right and bottom of the object of each token's cell."""
    cells = np.full((GRID * GRID, 4), IGNORE)
    for cell in scene.occupied:
        cells[cell] = box_of(scene, int(cell))
    return cells[CELL_OF_PATCH]


def lesson(split: str, seed: int, images: int) -> Lesson:
    """The lesson of a seed, with so many signs and as many scenes."""
    shown, scenes = (list(islice(stream, images))
                     for stream in (signs(split, seed), sample_scenes(split, seed + 1)))
    pixels = np.stack([sign.drawn() for sign in shown] + [draw_scene(scene) for scene in scenes])
    letters, places = zip(*map(sign_labels, shown))
    edges = np.stack([edge_labels(scene) for scene in scenes])
    labels = (torch.from_numpy(np.stack(part))
              for part in (letters, places, edges, stack_labels(scenes)[0]))
    return Lesson(to_pixels(torch.from_numpy(pixels)), *labels)


class Lessons(nn.Module):
    """Linear read-outs of image tokens, and an anchor at those of ``model`` as it is now."""

    def __init__(self, model: LlavaForConditionalGeneration,
                 tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        words = model.get_input_embeddings().weight.detach().clone()
        self.tables = label_vectors(words, tokenizer)
        self.before = copy.deepcopy(_seeing(model)).requires_grad_(False)
        self.place = nn.Linear(WIDTH, LENGTHS.stop)
        self.edges = nn.Linear(WIDTH, 4 * (IMAGE_SIZE + 1))

    @property
    def heads(self) -> list[nn.Module]:
        """What of this is trained."""
        return [self.place, self.edges]

    def loss(self, model: LlavaForConditionalGeneration, given: Lesson
             ) -> tuple[torch.Tensor, dict[str, float]]:
        """What labels and the anchor lose, and the shares of labels that are met."""
        features = _tokens(_seeing(model), given.pixels)
        on_signs, on_scenes = features.chunk(2)
        old = _tokens(self.before, given.pixels[len(on_signs):])
        weight = torch.ones(LENGTHS.stop)
        weight[NO_SIGN] = NO_SIGN_WEIGHT
        letters = self.tables["letter"][1:].T
        said = {"letter": READOUT_SCALE * on_signs @ letters, "place": self.place(on_signs),
                "edge": self.edges(on_scenes).unflatten(-1, (4, -1))}
        true = {"letter": given.letters, "place": given.places, "edge": given.edges}
        loss = sum(F.cross_entropy(said[name].flatten(0, -2), true[name].flatten(),
                                   weight if name == "place" else None) for name in said)
        counted = {"letter": given.letters != IGNORE, "place": given.places != NO_SIGN,
                   "edge": given.edges != IGNORE}
        met = {name: (said[name].argmax(-1) == true[name])[counted[name]].float().mean().item()
               for name in said}
        anchor = (on_scenes - old).square().mean() / old.var()
        read_loss, read = readout(on_scenes, given.shown, self.tables)
        met |= {"read": sum(read.values()) / len(read), "drift": anchor.item()}
        return loss + read_loss + ANCHOR_WEIGHT * anchor, met


def _seeing(model: LlavaForConditionalGeneration) -> nn.ModuleList:
    return nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector])


def _tokens(seeing: nn.ModuleList, pixels: torch.Tensor) -> torch.Tensor:
    tower, projector = seeing
    return projector(tower(pixel_values=pixels).last_hidden_state[:, 1:])
