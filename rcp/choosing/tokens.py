"""Which rows of a batch are image, question, answer: built once per forward."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rcp.choosing.one_copy import Array, read, sent
from rcp.choosing.positions import Positions, columns_of
from rcp.choosing.roles import image_numbers, listed, roles_of, run_of, square_places

IGNORED = -100
"""Label of a token that is not part of the answer."""


@dataclass(frozen=True)
class OnHost:
    """What is known of a batch without asking its device.

    Counts by sample of the visual, question, answer and valid columns, and of the first three the
    run of columns that they are in every sample, or None. ``all_placed``: every visual token has
    a place in its image.
    """

    visual_counts: tuple[int, ...]
    question_counts: tuple[int, ...]
    answer_counts: tuple[int, ...]
    valid_counts: tuple[int, ...]
    visual_run: range | None = None
    question_run: range | None = None
    answer_run: range | None = None
    all_placed: bool = False


@dataclass(frozen=True)
class TokenMap:
    """Roles of the T columns of a batch of B rows. Knows no method and no model.

    ``image``, ``question``, ``answer``, ``valid``: (B, T) bool. *Question* is the valid text
    after the last image up to the last prompt token (all prompt text where nothing follows the
    image). *Answer* marks the rows that *predict* answer tokens. ``columns`` (B, T) numbers them.
    ``visual_columns`` (B, N) long lists the image columns in raster order, ``visual_valid``
    (B, N) bool says which of these slots exist, ``visual_rank`` (B, N) long numbers them in
    their sample; likewise ``question_columns`` (B, Q) and ``answer_columns`` (B, A).
    ``image_index`` (B, N) long numbers the image a slot belongs to. ``grid`` (B, N, 2) is the
    (row, column) of a token in its own image, in [-1, 1]; NaN where it has no place (newline
    tokens). ``host`` is read once, so that no later step waits for the device.
    """

    image: Tensor
    question: Tensor
    answer: Tensor
    valid: Tensor
    columns: Tensor
    visual_columns: Tensor
    visual_valid: Tensor
    visual_rank: Tensor
    image_index: Tensor
    grid: Tensor
    question_columns: Tensor
    question_valid: Tensor
    answer_columns: Tensor
    answer_valid: Tensor
    host: OnHost

    @property
    def has_images(self) -> bool:
        """Whether any sample has a visual token; known on the host."""
        return max(self.host.visual_counts, default=0) > 0

    @property
    def padded(self) -> bool:
        """Whether any column is padding; known on the host."""
        return min(self.host.valid_counts, default=0) < self.image.shape[1]

    @property
    def text_counts(self) -> list[int]:
        """Valid columns of each sample that are no image; known on the host."""
        return [valid - n for valid, n in zip(self.host.valid_counts, self.host.visual_counts)]

    @property
    def visual_at(self) -> Positions:
        """The columns of the visual slots."""
        valid = _unless_all(self.visual_valid, self.host.visual_counts)
        return Positions(self.visual_columns, self.host.visual_run, valid)

    @property
    def question_at(self) -> Positions:
        """The columns of the question."""
        valid = _unless_all(self.question_valid, self.host.question_counts)
        return Positions(self.question_columns, self.host.question_run, valid)

    @property
    def answer_at(self) -> Positions:
        """The columns that predict answer tokens."""
        valid = _unless_all(self.answer_valid, self.host.answer_counts)
        return Positions(self.answer_columns, self.host.answer_run, valid)

    @property
    def text_at(self) -> Positions:
        """The valid columns that are no image."""
        counts = self.text_counts
        columns, valid = columns_of(self.valid & ~self.image, max(counts))
        return Positions(columns, None, _unless_all(valid, tuple(counts)))

    def columns_with(self, kept: Tensor) -> Tensor:
        """(B, T) bool: valid text, and of the images the columns of the slots ``kept`` (B, N)."""
        image = torch.zeros_like(self.image).scatter(1, self.visual_columns, kept)
        return self.valid & (~self.image | image)

    def with_a_slot(self) -> "TokenMap":
        """With one visual slot per row at least: where no row has an image, one unreal slot.

        A forward over it runs like one over a ragged batch, and leaves no part of it out.
        """
        if self.visual_columns.shape[1]:
            return self
        column = self.question_columns.new_zeros(len(self.valid), 1)
        return replace(
            self,
            visual_columns=column,
            visual_valid=torch.zeros_like(column, dtype=torch.bool),
            visual_rank=column,
            image_index=column - 1,
            grid=torch.full((*column.shape, 2), torch.nan, device=column.device),
        )

    def placed(self, index: Tensor, grid: Tensor) -> "TokenMap":
        """With the images ``index`` (B, T) and places ``grid`` (B, T, 2) of a family that knows."""
        columns = self.visual_columns
        return replace(
            self,
            image_index=index.gather(1, columns),
            grid=grid.gather(1, columns[..., None].expand(-1, -1, 2)),
            host=replace(self.host, all_placed=False),
        )


def _unless_all(valid: Tensor, counts: tuple[int, ...]) -> Tensor | None:
    """``valid`` (B, X), or None where every slot exists."""
    return None if min(counts, default=0) == valid.shape[1] else valid


def predicting(labels: Tensor) -> Tensor:
    """(B, T) bool: the columns that predict an answer token, of ``labels`` (B, T) long."""
    return functional.pad(labels[:, 1:] != IGNORED, (0, 1))


def build_token_map(
    image: Tensor,
    valid: Tensor,
    *,
    labels: Tensor | None = None,
    prompt_end: Tensor | None = None,
) -> TokenMap:
    """Assign a role to every column.

    ``image``, ``valid`` (B, T) bool; ``labels`` (B, T) long, ``IGNORED`` outside the answer;
    ``prompt_end`` (B,) the column after the last prompt token, where labels do not tell.
    With neither, the whole forward is the prompt, as in the prefill of a generation. The device
    is read once, and sent one buffer.
    """
    found = read([image, valid] if labels is None else [image, valid, labels != IGNORED])
    end = None if prompt_end is None else np.array(prompt_end.tolist())
    roles = roles_of(found[0], found[1], None if labels is None else found[2], end)
    visual_columns, visual_valid = listed(roles.image)
    question_columns, question_valid = listed(roles.question)
    answer_columns, answer_valid = listed(roles.answer)
    number = np.take_along_axis(image_numbers(roles.image), visual_columns, 1)
    tensors = sent(
        {
            "image": roles.image,
            "question": roles.question,
            "answer": roles.answer,
            "valid": roles.valid,
            "columns": _numbered(roles.image),
            "visual_columns": visual_columns,
            "visual_valid": visual_valid,
            "visual_rank": _numbered(visual_columns),
            "image_index": number,
            "grid": square_places(number, visual_valid),
            "question_columns": question_columns,
            "question_valid": question_valid,
            "answer_columns": answer_columns,
            "answer_valid": answer_valid,
        },
        image.device,
    )
    host = OnHost(
        visual_counts=tuple(roles.image.sum(1).tolist()),
        question_counts=tuple(roles.question.sum(1).tolist()),
        answer_counts=tuple(roles.answer.sum(1).tolist()),
        valid_counts=tuple(roles.valid.sum(1).tolist()),
        visual_run=run_of(visual_columns, visual_valid),
        question_run=run_of(question_columns, question_valid),
        answer_run=run_of(answer_columns, answer_valid),
        all_placed=True,
    )
    return TokenMap(**tensors, host=host)


def _numbered(rows: Array) -> Array:
    return np.broadcast_to(np.arange(rows.shape[1]), rows.shape)


def continuation_map(valid: Tensor, predicting: int = 1) -> TokenMap:
    """Roles of a forward that only continues a generation: ``valid`` (B, T) bool, no image.

    The last valid row predicts what is generated next, or, when candidate tokens are verified,
    the last ``predicting`` columns do. Nothing is read from the device.
    """
    nothing = torch.zeros_like(valid)
    none = nothing[:, :0]
    batch, length = valid.shape
    column = torch.arange(length, device=valid.device).expand_as(valid)
    last = torch.where(valid, column, 0).amax(1, keepdim=True)
    rows = last if predicting == 1 else column[:, -predicting:]
    return TokenMap(
        image=nothing,
        question=nothing,
        answer=nothing.scatter(1, rows, True),
        valid=valid,
        columns=column,
        visual_columns=none.long(),
        visual_valid=none,
        visual_rank=none.long(),
        image_index=none.long(),
        grid=none[..., None].expand(-1, -1, 2).float(),
        question_columns=none.long(),
        question_valid=none,
        answer_columns=rows,
        answer_valid=torch.ones_like(rows, dtype=torch.bool),
        host=OnHost(
            visual_counts=(0,) * batch,
            question_counts=(0,) * batch,
            answer_counts=(rows.shape[1],) * batch,
            valid_counts=(length,) * batch,
        ),
    )


@functools.lru_cache(maxsize=64)
def one_more_token(batch: int, device: torch.device) -> TokenMap:
    """:func:`continuation_map` of one valid column: the same in every step of a generation."""
    nothing, everything = np.zeros((batch, 1), bool), np.ones((batch, 1), bool)
    first, none = np.zeros((batch, 1), np.int64), np.zeros((batch, 0), np.int64)
    with torch.inference_mode(False):  # what is made inside it could not be used outside
        tensors = sent(
            {
                "image": nothing,
                "question": nothing,
                "answer": everything,
                "valid": everything,
                "columns": first,
                "visual_columns": none,
                "visual_valid": none.astype(bool),
                "visual_rank": none,
                "image_index": none,
                "grid": np.zeros((batch, 0, 2), np.float32),
                "question_columns": none,
                "question_valid": none.astype(bool),
                "answer_columns": first,
                "answer_valid": everything,
            },
            device,
        )
    zeros, ones = (0,) * batch, (1,) * batch
    return TokenMap(**tensors, host=OnHost(zeros, zeros, ones, ones, answer_run=range(1)))
