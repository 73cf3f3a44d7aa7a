"""Several images in one prompt: which frame a visual token is of, and whose a text is."""

import torch
from torch import Tensor
from torch.nn import functional

from rcp.choosing.positions import Positions, columns_of
from rcp.choosing.tokens import TokenMap


def frame_numbers(tokens: TokenMap, within: Tensor | None) -> Tensor:
    """The frame of each visual slot, numbered from 0 over all images of its sample: (B, N) long.

    ``within`` (B, T) long numbers the frames of a video at its columns, as a family knows them;
    None, or one number all along, makes each image one frame.
    """
    image = tokens.image_index
    starts = image[:, 1:] != image[:, :-1]
    if within is not None:
        within = within.to(image.device).expand_as(tokens.image)
        frame = within.gather(1, tokens.visual_columns)
        starts = starts | (frame[:, 1:] != frame[:, :-1])
    return functional.pad(starts.long().cumsum(1), (1, 0))[:, : image.shape[1]]


def prompt_text(tokens: TokenMap) -> Positions:
    """The columns of all text of the prompt, answers left out, in order: X slots a sample."""
    before_answers = tokens.answer.long().cumsum(1) - tokens.answer.long() == 0
    text = tokens.valid & ~tokens.image & before_answers
    columns, real = columns_of(text, max(tokens.text_counts, default=0))
    return Positions(columns, None, real)


def image_of_text(tokens: TokenMap) -> Tensor:
    """The image that each text token of :func:`prompt_text` belongs to: (B, X) long.

    By the order of tokens alone: the text between an image and the next one, or the prompt's end,
    belongs to it. -1 for text before the first image, for what stands inside an image (tokens that
    break its rows), and at slots that do not exist.
    """
    nowhere = tokens.image.shape[1]  # above every number of an image
    of_slots = torch.where(tokens.visual_valid, tokens.image_index, -1)
    numbers = torch.full_like(tokens.columns, -1).scatter(1, tokens.visual_columns, of_slots)
    last = numbers.cummax(1).values
    following = torch.where(tokens.image, numbers, nowhere).flip(1).cummin(1).values.flip(1)
    text = prompt_text(tokens)
    assert text.listed is not None and text.valid is not None
    owner = torch.where(last == following, -1, last).gather(1, text.listed)
    return torch.where(text.valid, owner, -1)
