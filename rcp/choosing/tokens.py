"""Which rows of a batch are image, question, answer: built once per forward."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""Label of a token that is not part of the answer."""


@dataclass(frozen=True)
class TokenMap:
    """Roles of the T columns of a batch of B rows. Knows no method and no model.

    ``image``, ``question``, ``answer``, ``valid``: (B, T) bool. *Question* is the valid text
    after the last image up to the last prompt token (all prompt text where nothing follows the
    image). *Answer* marks the rows that *predict* answer tokens.
    ``visual_columns`` (B, N) long lists the image columns in raster order, ``visual_valid``
    (B, N) bool says which of these slots exist; likewise ``question_columns`` (B, Q) and
    ``answer_columns`` (B, A). ``image_index`` (B, N) long numbers the image a slot belongs to.
    ``grid`` (B, N, 2) is the (row, column) of a token in its own image, in [-1, 1]; NaN where it
    has no place (newline tokens). ``visual_counts`` and ``valid_counts`` are host integers: they
    are read once, so that no later step waits for the device.
    """

    image: Tensor
    question: Tensor
    answer: Tensor
    valid: Tensor
    visual_columns: Tensor
    visual_valid: Tensor
    image_index: Tensor
    grid: Tensor
    question_columns: Tensor
    question_valid: Tensor
    answer_columns: Tensor
    answer_valid: Tensor
    visual_counts: tuple[int, ...]
    valid_counts: tuple[int, ...]

    @property
    def has_images(self) -> bool:
        """Whether any sample has a visual token; known on the host."""
        return max(self.visual_counts, default=0) > 0

    @property
    def text_counts(self) -> list[int]:
        """Valid columns of each sample that are no image; known on the host."""
        return [valid - n for valid, n in zip(self.valid_counts, self.visual_counts)]

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
        )


def predicting(labels: Tensor) -> Tensor:
    """(B, T) bool: the columns that predict an answer token, of ``labels`` (B, T) long."""
    return functional.pad(labels[:, 1:] != IGNORED, (0, 1))


def columns_of(mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The columns where ``mask`` (B, T) holds, in order, as (B, width) long, and which are real.

    Slots past a row's own count hold other columns of that row, marked unreal.
    """
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)[:, :width]
    return order, mask.gather(1, order)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, K) of ``values`` (B or 1, T, ...) → (B, K, ...), on their device."""
    index = index.to(values.device)  # layers may be spread over devices, indices live on one
    values = values.expand(index.shape[0], *values.shape[1:])
    shape = index.shape + (1,) * (values.dim() - 2)
    return values.gather(1, index.view(shape).expand(*index.shape, *values.shape[2:]))


def image_runs(image: Tensor) -> Tensor:
    """Number the runs of consecutive image columns: (B, T) bool → (B, T) long, -1 elsewhere."""
    starts = image.clone()
    starts[:, 1:] &= ~image[:, :-1]
    return torch.where(image, starts.cumsum(1) - 1, -1)


def square_grid(columns: Tensor, valid: Tensor, runs: Tensor) -> Tensor:
    """Places for images whose tokens form a full square in raster order.

    ``columns``/``valid`` (B, N) as in :class:`TokenMap`, ``runs`` (B, N) the image of each slot.
    Returns (B, N, 2) in [-1, 1]; an image that is no square is laid out as one row.
    """
    slot = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
    starts = torch.ones_like(valid)
    starts[:, 1:] = runs[:, 1:] != runs[:, :-1]
    rank = slot - torch.where(starts, slot, 0).cummax(1).values
    run = torch.where(valid, runs, columns.shape[1])
    sizes = torch.zeros(len(run), columns.shape[1] + 1, dtype=torch.long, device=run.device)
    size = sizes.scatter_add(1, run, torch.ones_like(run)).gather(1, run)
    side = size.double().sqrt().round().long()
    width = torch.where(side * side == size, side, size)
    height = torch.div(size, width, rounding_mode="floor")
    row, column = torch.div(rank, width, rounding_mode="floor"), rank % width
    centre = torch.stack([(row + 0.5) / height, (column + 0.5) / width], dim=-1)
    return centre * 2 - 1


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
    With neither, the whole forward is the prompt, as in the prefill of a generation.
    """
    image = image & valid
    length = image.shape[1]
    column = torch.arange(length, device=image.device).expand_as(image)
    last_valid = torch.where(valid, column, -1).amax(1)
    if labels is not None:
        labelled = (labels != IGNORED) & valid
        first_label = torch.where(labelled, column, length).amin(1)
        prompt_end = torch.minimum(first_label, last_valid + 1)
        answer = torch.zeros_like(valid)
        answer[:, :-1] = labelled[:, 1:]
    else:
        prompt_end = last_valid + 1 if prompt_end is None else prompt_end
        answer = valid & (column >= prompt_end[:, None] - 1)
    prompt_text = valid & ~image & (column < prompt_end[:, None])
    last_image = torch.where(image, column, -1).amax(1)
    question = prompt_text & (column > last_image[:, None])
    question = torch.where(question.any(1, keepdim=True), question, prompt_text)

    counts = torch.stack([m.sum(1) for m in (image, question, answer, valid)]).tolist()
    width = [max(row, default=0) for row in counts]
    visual_columns, visual_valid = columns_of(image, width[0])
    question_columns, question_valid = columns_of(question, width[1])
    answer_columns, answer_valid = columns_of(answer, width[2])
    index = image_runs(image).gather(1, visual_columns)
    return TokenMap(
        image=image,
        question=question,
        answer=answer,
        valid=valid,
        visual_columns=visual_columns,
        visual_valid=visual_valid,
        image_index=index,
        grid=square_grid(visual_columns, visual_valid, index),
        question_columns=question_columns,
        question_valid=question_valid,
        answer_columns=answer_columns,
        answer_valid=answer_valid,
        visual_counts=tuple(counts[0]),
        valid_counts=tuple(counts[3]),
    )


def continuation_map(valid: Tensor, predicting: int = 1) -> TokenMap:
    """Roles of a forward that only continues a generation: ``valid`` (B, T) bool, no image.

    The last valid row predicts what is generated next, or, when candidate tokens are verified,
    the last ``predicting`` columns do. Nothing is read from the device.
    """
    batch, length = valid.shape
    nothing = torch.zeros_like(valid)
    none = nothing[:, :0]
    column = torch.arange(length, device=valid.device).expand_as(valid)
    last = torch.where(valid, column, 0).amax(1, keepdim=True)
    rows = last if predicting == 1 else column[:, -predicting:]
    return TokenMap(
        image=nothing,
        question=nothing,
        answer=nothing.scatter(1, rows, True),
        valid=valid,
        visual_columns=none.long(),
        visual_valid=none,
        image_index=none.long(),
        grid=none[..., None].expand(-1, -1, 2).float(),
        question_columns=none.long(),
        question_valid=none,
        answer_columns=rows,
        answer_valid=torch.ones_like(rows, dtype=torch.bool),
        visual_counts=(0,) * batch,
        valid_counts=(length,) * batch,
    )
