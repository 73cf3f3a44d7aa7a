"""What of a request decides which tokens its images keep: all of it enters the caches' keys.

The engine keeps an image's tokens, and the keys and values computed from them, under a hash of the
image and of the processor's arguments. What is chosen also depends on the plug-in, the budget and,
for most methods, on the prompt. They therefore become one of these arguments, and what the model
is told of a request is read from there and nowhere else: none of it can be left out of the key.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rcp.choosing.schedule import Schedule
from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.quoting import quoted
from rcp.serving.vllm.budgets import ARGUMENT, share_of

KEY = "rcp_choice"
"""The argument's name."""

SIZE = "rcp_tokens"
"""Under this name the model is told how many tokens an image had."""


@dataclass(frozen=True)
class ChoiceKey:
    """``plugin``: its fingerprint, empty where nothing is dropped. ``share`` of its tokens that an
    image keeps, None for all, a whole number of them where images of several sizes keep as many.
    ``prompt``: token ids with one placeholder, as a method that reads them is shown them; else
    empty, so that other questions about an image find it in the caches.
    """

    plugin: str
    share: float | int | None
    prompt: tuple[int, ...]

    @classmethod
    def of(
        cls,
        arguments: Mapping[str, Any],
        plugin: Plugin,
        fingerprint: str,
        prompt: Sequence[int],
        placeholder: int,
        tokens: Sequence[int],
        default: object,
    ) -> "ChoiceKey":
        """That of a request with the processor's ``arguments``.

        ``tokens``: how many each of its images has; ``default`` is the server's budget. Raises
        ``UserError`` for a budget that cannot be, and for any other argument: an engine that hands
        requests' arguments on does so only where it is told to trust them all.
        """
        if others := sorted(set(arguments) - {ARGUMENT}):
            raise UserError(
                f"mm_processor_kwargs holds {quoted(others[0])}. A server that prunes takes "
                f"'{ARGUMENT}' from requests and nothing else: leave it out."
            )
        asked: Any = arguments.get(ARGUMENT, default)
        shares = {share_of(asked, plugin, count) for count in tokens}
        if shares <= {None}:
            return cls("", None, ())
        share = shares.pop() if len(shares) == 1 else int(asked)
        shown = alone(prompt, placeholder) if plugin.pruner(0).reads_question else ()
        return cls(fingerprint, share, shown)

    def arguments(self) -> dict[str, Any]:
        """The processor's arguments of the request."""
        return {KEY: asdict(self) | {"prompt": list(self.prompt)}}

    @classmethod
    def taken(cls, arguments: Mapping[str, Any]) -> tuple["ChoiceKey", dict[str, Any]]:
        """The key in ``arguments``, and these without it."""
        rest = dict(arguments)
        return cls._read(rest.pop(KEY)), rest

    def written(self) -> Tensor:
        """As the model is told: bytes, (n,) uint8, which no cast to its precision changes."""
        return torch.tensor(list(json.dumps(asdict(self)).encode()), dtype=torch.uint8)

    @classmethod
    def read(cls, written: Tensor) -> "ChoiceKey":
        """What :meth:`written` wrote."""
        return cls._read(json.loads(bytes(written.tolist())))

    @classmethod
    def _read(cls, found: dict[str, Any]) -> "ChoiceKey":
        return cls(found["plugin"], found["share"], tuple(found["prompt"]))

    def of_size(self, tokens: int, plugin: Plugin) -> "ChoiceKey":
        """What it says of an image with ``tokens``, of which ``plugin`` keeps a share."""
        if not isinstance(self.share, int):
            return self
        return replace(self, share=share_of(self.share, plugin, tokens))

    def count(self, tokens: int) -> int:
        """How many of an image's ``tokens`` are kept, of whose size this is."""
        if self.share is None:
            return tokens
        return Schedule((0,), (self.share,), 1).count(0, tokens)


def alone(prompt: Sequence[int], placeholder: int) -> tuple[int, ...]:
    """``prompt`` with one image of those it has, in the place of the last.

    Each image is looked at as if it were the only one, so that it keeps its own share. [ours]
    """
    places = [at for at, token in enumerate(prompt) if token == placeholder]
    return tuple(t for at, t in enumerate(prompt) if t != placeholder or at == places[-1])
