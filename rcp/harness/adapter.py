"""The model `rcp` as lmms-eval calls it, by its simple and by its chat protocol."""

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from tqdm import tqdm

from rcp.errors import UserError
from rcp.harness.asked import Asked, of_messages, of_text
from rcp.harness.loading import answerer, own_device
from rcp.harness.settings import settings

Said = TypeVar("Said")


class Weighed(tuple[float, bool], GenerationResult):
    """The pair that the interface of lmms-eval asks for, in what its evaluator takes as it is.

    Plain pairs it makes one text of (0.7.3), which no scorer can read any more.
    """

    def __init__(self, pair: tuple[float, bool]) -> None:
        GenerationResult.__init__(self, text=pair)


class Rcp(lmms):
    """`pretrained=MODEL,plugin=DIR,budget=K`: a model with the plug-in attached, or without one.

    ``pretrained``: folder or hub id (default: the base that the plug-in names); ``plugin``: an
    exported folder (default: none, the full model); ``budget``: among those it was trained for;
    ``dtype``: precision (default: the model's own); ``device_map`` and ``attn_implementation`` as
    in `from_pretrained`. ``batch_size`` and ``device`` come from options of lmms-eval. Raises
    ``UserError`` for all that cannot be.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        plugin: str | None = None,
        budget: float | None = None,
        dtype: str = "auto",
        device_map: str | None = None,
        attn_implementation: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,  # lmms-eval's, for a batch_size "auto"
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise UserError(
                f"The model 'rcp' takes no argument '{next(iter(unknown))}': give pretrained, "
                f"plugin, budget, dtype, device_map and attn_implementation."
            )
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(f"--batch_size is {batch_size}: give a whole number of at least 1.")
        chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        self.batch_size = int(batch_size)
        self.answerer = answerer(
            pretrained, plugin, budget, dtype, device_map or own_device(device), **chosen
        )

    @property
    def device(self) -> torch.device:
        """Where lmms-eval gathers what several processes have answered."""
        return self.answerer.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to ``requests``, in their order."""

        def answered(some: Sequence[Any]) -> list[str]:
            wanted = settings(self.generation_arguments(some[0].args))
            return self.answerer.answers([self.asked(one.args) for one in some], wanted)

        def kind(request: Any) -> str:
            return json.dumps(
                self.generation_arguments(request.args), sort_keys=True, default=str
            )

        return self._batched(requests, kind, answered)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Weighed]:
        """For each continuation its *negative* log-probability (nats), and whether it is greedy.

        The interface documents the log-probability itself. But all models of lmms-eval return
        losses, and its scorer of `multiple_choice` takes the choice with the smallest value.
        """

        def weighed(some: Sequence[Any]) -> list[Weighed]:
            asked, continuations = zip(*(self._continued(one.args) for one in some))
            found = self.answerer.likelihoods(asked, continuations)
            return [Weighed((-one.log_probability, one.greedy)) for one in found]

        return self._batched(requests, lambda _: "", weighed)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Each request's answers, round by round: the task makes a round from the answers before.

        Request by request, since the rounds of each are its own.
        """
        return [self._rounds(request.args) for request in tqdm(requests, disable=self.rank != 0)]

    @abstractmethod
    def asked(self, arguments: tuple[Any, ...]) -> Asked:
        """What the ``arguments`` of a request to generate ask."""

    @abstractmethod
    def generation_arguments(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """How they want the answer generated."""

    @abstractmethod
    def next_round(
        self, arguments: tuple[Any, ...], said: list[str], state: Any
    ) -> tuple[Asked | None, list[str], Any]:
        """What is asked after the rounds that were answered by ``said``: None where it ends.

        Behind it ``said`` as the task wants it kept, and the ``state`` that the next call gives
        back.
        """

    def document(self, arguments: tuple[Any, ...]) -> tuple[Any, str]:
        """The document that the last three of ``arguments`` name, and its name in messages."""
        number, task, split = arguments[-3:]
        return self.task_dict[task][split][number], f"document {number} of task '{task}'"

    def _rounds(self, arguments: tuple[Any, ...]) -> list[str]:
        wanted = settings(self.generation_arguments(arguments))
        asked: Asked | None = self.asked(arguments)
        said: list[str] = []
        state = None
        while asked is not None:
            said = [*said, *self.answerer.answers([asked], wanted)]
            asked, said, state = self.next_round(arguments, said, state)
        return said

    def _continued(self, arguments: tuple[Any, ...]) -> tuple[Asked, str]:
        """A conversation and its continuation; one by itself is asked of no document."""
        text, target, *rest = arguments
        if not rest:
            return of_text(text, (), "continuation of an empty text"), target
        document, where = self.document(arguments)
        continuation = target if isinstance(target, str) else target(document)
        return of_text(text, rest[0](document), where), continuation

    def _batched(
        self,
        requests: Sequence[Any],
        kind: Callable[[Any], str],
        act: Callable[[Sequence[Any]], list[Said]],
    ) -> list[Said]:
        """What ``act`` says of ``requests`` in batches of one ``kind``, in the order given."""
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            kinds.setdefault(kind(request), []).append(number)
        found: dict[int, Said] = {}
        with tqdm(total=len(requests), desc="rcp", disable=self.rank != 0) as bar:
            for numbers in kinds.values():
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    found.update(zip(batch, act([requests[number] for number in batch])))
                    bar.update(len(batch))
        return [found[number] for number in range(len(requests))]


class RcpChat(Rcp):
    """By the chat protocol: a task gives messages, with a system's and earlier turns."""

    is_simple = False

    def asked(self, arguments: tuple[Any, ...]) -> Asked:
        document, where = self.document(arguments)
        return of_messages(arguments[1](document), where)

    def generation_arguments(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return arguments[2]

    def next_round(
        self, arguments: tuple[Any, ...], said: list[str], state: Any
    ) -> tuple[Asked | None, list[str], Any]:
        document, where = self.document(arguments)
        messages, ended, said, state = arguments[1](
            document, round_idx=len(said), previous_output=said, previous_round_info=state
        )
        return None if ended else of_messages(messages, where), list(said), state


class RcpSimple(Rcp):
    """By the simple protocol: a task gives a text and images."""

    is_simple = True

    def asked(self, arguments: tuple[Any, ...]) -> Asked:
        document, where = self.document(arguments)
        return of_text(arguments[0], arguments[2](document), where)

    def generation_arguments(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return arguments[1]

    def next_round(
        self, arguments: tuple[Any, ...], said: list[str], state: Any
    ) -> tuple[Asked | None, list[str], Any]:
        document, where = self.document(arguments)
        visuals, text, ended, said, state = arguments[3](
            document, round_idx=len(said), previous_output=said, previous_round_info=state
        )
        return None if ended else of_text(text, visuals, where), list(said), state
