"""How probable it is that a model says what follows a prompt."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rcp.attaching.handle import Handle


class Likelihood(NamedTuple):
    """``log_probability`` (nats) of a continuation, summed over its tokens; ``greedy``: whether
    the model itself would go on with it."""

    log_probability: float
    greedy: bool


def likelihoods(
    model: Any, handle: Handle | None, inputs: dict[str, Tensor], lengths: Sequence[int]
) -> list[Likelihood]:
    """Of the last ``lengths`` columns of each row of ``inputs``, which are padded on the left.

    One forward, in which the plug-in of ``handle``, if there is one, chooses by what stands before
    them, as it would before it generated them.
    """
    ids = inputs["input_ids"]
    ends = ids.shape[1] - torch.tensor(lengths, device=ids.device)
    with nullcontext() if handle is None else handle.prompt(ends):
        # a model that keeps the logits of all columns is read from their end as well
        logits = model(**inputs, use_cache=False, logits_to_keep=max(lengths) + 1).logits
    found = []
    for row, length in enumerate(lengths):
        predicted = logits[row, -1 - length : -1].float().log_softmax(-1)
        said = ids[row, ids.shape[1] - length :].to(predicted.device)
        value = predicted.gather(1, said[:, None]).sum().item()
        found.append(Likelihood(value, torch.equal(predicted.argmax(-1), said)))
    return found
