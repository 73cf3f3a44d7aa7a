"""From the coarsest level to the finest, by way of the tiles that matter to the question."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from rcp.errors import UserError
from rcp.pyramid.asking import Asking
from rcp.pyramid.attention import Scorer, Scores
from rcp.pyramid.levels import Level, Tile, levels
from rcp.pyramid.windows import Windows
from rcp.typed_values import check_range


@dataclass(frozen=True)
class Budget:
    """How far a walk goes.

    ``across``: tiles of the coarsest level's short side, about; ``share`` of a level's tokens are
    key tokens; ``most_tiles``: a level of which more would be looked at is not. The defaults are
    LRS-VQA's, the last one that for Vicuna [note]. The coarsest level is looked at whole, however
    many tiles it has. [ours]
    """

    across: int = 3
    share: float = 0.25
    most_tiles: int = 40

    def __post_init__(self) -> None:
        try:
            check_range("across", self.across, 1)
            check_range("most_tiles", self.most_tiles, 1)
            check_range("share", self.share, 0, 1)
        except ValueError as error:
            raise UserError(f"The budget of a pyramid: {error}.") from error


@dataclass(frozen=True)
class Look:
    """One level of a walk: its ``tiles`` as they were shown, and their key tokens (T, N) bool."""

    level: Level
    tiles: list[Tile]
    images: list[Image.Image]
    scores: Scores
    key: Tensor

    @property
    def tokens(self) -> int:
        """Visual tokens of all its tiles."""
        return int(self.scores.exists.sum())

    def points(self) -> list[tuple[float, float]]:
        """Where the key tokens lie, x and y in [0, 1] of the image."""
        found = []
        for tile, places, key in zip(self.tiles, self.scores.places, self.key):
            box = self.level.box(tile)
            for x, y in places[key].tolist():
                found.append((
                    (box.left + x * box.width) / self.level.width,
                    (box.top + y * box.height) / self.level.height,
                ))
        return found

    def best(self, count: int) -> list[int]:
        """Numbers of the ``count`` tiles whose key tokens are attended to most, in their order."""
        worth = (self.scores.attention * self.key).sum(1)
        order = worth.argsort(descending=True, stable=True)[:count]
        return sorted(order.tolist())


def walk(image: Windows, asking: Asking, scorer: Scorer, side: int, budget: Budget) -> list[Look]:
    """What was looked at of ``image``, coarsest level first; ``side``: the tower's input in pixels.

    The finer level's tiles are those in which a key token lies. The walk ends at the finest level,
    or before one that takes more tiles than ``budget`` has. (LRS-VQA, arXiv 2503.07588 [note].)
    """
    looks: list[Look] = []
    for level in levels(*image.size, side, budget.across):
        tiles = level.tiles_at(looks[-1].points()) if looks else level.tiles
        if looks and len(tiles) > budget.most_tiles:
            break
        shown = [image.read(level.box(tile), (side, side)) for tile in tiles]
        scores = scorer(asking, shown)
        looks.append(Look(level, tiles, shown, scores, key_tokens(scores, budget.share)))
    return looks


def key_tokens(scores: Scores, share: float) -> Tensor:
    """The ``share`` of a level's tokens with most attention, over all its tiles: (T, N) bool.

    At least one. Tokens without a place are none: they lead nowhere. [ours]
    """
    placed = scores.exists & ~scores.places.isnan().any(-1)
    if not placed.any():
        raise UserError(
            "Of this model's visual tokens it is not known where in the image they lie, so that "
            "they lead to no tile. `python -m rcp backbones` lists other families."
        )
    count = max(1, int(share * int(placed.sum())))
    ranked = scores.attention.masked_fill(~placed, -torch.inf).flatten()
    key = torch.zeros_like(ranked, dtype=torch.bool)
    key[ranked.argsort(descending=True, stable=True)[:count]] = True
    return key.view_as(placed)
