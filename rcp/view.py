"""What a method may see at one place of the decoder."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    """Everything a pruner is given. Dead and padding slots hold arbitrary finite values.

    A score may depend on alive tokens only: the same call is made on all N slots with a mask
    (training) and on the survivors alone (inference), and both must choose the same tokens.

    ``visual`` (B, N, D) and ``question`` (B, Q, D) are the layer's normed input rows; ``alive``
    (B, N) and ``question_valid`` (B, Q) are bool; ``rank`` (B, N) long is the number of a token in
    its sample, before anything was dropped; ``image_index`` (B, N) long and ``grid``
    (B, N, 2) in [-1, 1] say where a token comes from. ``question_attention`` (B, N) fp32 is the
    layer's own attention from the question to each visual token, mean over heads and rows; it
    is there if the method names it in ``needs``.
    """

    layer: int
    visual: Tensor
    alive: Tensor
    question: Tensor
    question_valid: Tensor
    rank: Tensor
    image_index: Tensor
    grid: Tensor
    question_attention: Tensor | None = None
