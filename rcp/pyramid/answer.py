"""The answer to one question about one image of any size, and what it has taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcp.errors import UserError
from rcp.pyramid.asking import Asking
from rcp.pyramid.attention import Scorer
from rcp.pyramid.walk import Budget, Look, walk
from rcp.pyramid.windows import Windows


@dataclass(frozen=True)
class Answered:
    """``text``, and of the ``looks`` what was given to the tower and what entered the decoder.

    ``pixels_encoded`` are the tower's, ``side`` x ``side`` for a tile; ``tokens_encoded`` those of
    all tiles, ``tokens_kept`` those that the answer was made of; ``pixels_read`` those decoded from
    the file.
    """

    text: str
    looks: Sequence[Look]
    side: int
    tokens_kept: int
    pixels_read: int

    @property
    def tiles_encoded(self) -> int:
        return sum(len(look.tiles) for look in self.looks)

    @property
    def pixels_encoded(self) -> int:
        return self.tiles_encoded * self.side**2

    @property
    def tokens_encoded(self) -> int:
        return sum(look.tokens for look in self.looks)


def answer(
    model: Any,
    processor: Any,
    image: Windows,
    question: str,
    scorer: Scorer,
    *,
    side: int,
    budget: Budget = Budget(),
    tiles: int = 1,
    max_new_tokens: int = 32,
) -> Answered:
    """What ``model`` says to ``question``, having walked ``image``'s pyramid by ``scorer``.

    The ``tiles`` of the last level that are attended to most are put to it as so many images in
    one prompt, of which it sees the key tokens alone. LRS-VQA gives the key tokens of all its
    tiles [note]; one tile is the default because any model has learned single images [ours].
    Raises ``UserError`` for a question or a model with which it cannot be done.
    """
    if tiles < 1:
        raise UserError(f"The answer is to come from {tiles} tiles: give at least 1.")
    asking = Asking(model, processor, question)
    looks = walk(image, asking, scorer, side, budget)
    last = looks[-1]
    shown = last.best(tiles)
    keep = last.key[shown][last.scores.exists[shown]]
    text = asking.answer([last.images[n] for n in shown], keep, max_new_tokens)
    return Answered(text, looks, side, int(keep.sum()), image.pixels_read)


def input_side(model: Any) -> int:
    """Pixels of a side of what the tower of ``model`` is given; ``UserError`` if any will do."""
    side = getattr(getattr(model.config, "vision_config", None), "image_size", None)
    if not isinstance(side, int):
        raise UserError(
            f"The vision tower of {type(model).__name__} takes images of any size: say with --side "
            "how many pixels a tile has."
        )
    return side
