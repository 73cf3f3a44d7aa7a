"""A model that goes on with conversations, or says how probable it is that it would."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from rcp.attaching.handle import Handle
from rcp.base_model.answering import answers
from rcp.conversations.padding import name_padding_token
from rcp.conversations.prompting import adds_special_tokens, model_inputs, refuse_no_template
from rcp.errors import UserError
from rcp.harness.asked import Asked
from rcp.harness.likelihood import Likelihood, likelihoods
from rcp.harness.settings import Settings
from rcp.quoting import plain

Said = TypeVar("Said")


class Answerer:
    """``model`` in evaluation mode, with the plug-in of ``handle`` attached, or with none.

    Raises ``UserError`` for a ``processor`` without a chat template or without a token to pad with.
    """

    def __init__(self, model: Any, processor: Any, handle: Handle | None) -> None:
        refuse_no_template(processor)
        name_padding_token(processor.tokenizer)
        self.model = model
        self.processor = processor
        self.handle = handle

    @torch.inference_mode()
    def answers(self, asked: Sequence[Asked], settings: Settings) -> list[str]:
        """What the model says next in each conversation, generated in one batch."""

        def answered(numbers: Sequence[int]) -> list[str]:
            those = [asked[number] for number in numbers]
            inputs = self._inputs(those, [self._prompt(one) for one in those])
            said = answers(self.model, self.processor, inputs, **settings.options)
            return [settings.cut(text) for text in said]

        return _with_and_without_images(asked, answered)

    @torch.inference_mode()
    def likelihoods(
        self, asked: Sequence[Asked], continuations: Sequence[str]
    ) -> list[Likelihood]:
        """How probable each continuation is as the next turn of its conversation, in one batch."""

        def weighed(numbers: Sequence[int]) -> list[Likelihood]:
            those = [asked[number] for number in numbers]
            prompts = [self._prompt(one) for one in those]
            texts = [
                prompt + self._continued(one, prompt, continuations[number])
                for number, one, prompt in zip(numbers, those, prompts)
            ]
            lengths = [self._new_tokens(*pair) for pair in zip(prompts, texts)]
            return likelihoods(self.model, self.handle, self._inputs(those, texts), lengths)

        return _with_and_without_images(asked, weighed)

    def _prompt(self, asked: Asked) -> str:
        try:
            return self.processor.apply_chat_template(asked.messages, add_generation_prompt=True)
        except Exception as error:  # templates refuse what their authors thought of, by any error
            raise self._refused([asked], error) from error

    def _continued(self, asked: Asked, prompt: str, continuation: str) -> str:
        """``continuation`` as the chat template writes it behind ``prompt``, its end left out.

        As it is where the template does not go on from its own prompt.
        """
        text = continuation.strip()
        turn = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        whole = self.processor.apply_chat_template([*asked.messages, turn])
        if not (text and whole.startswith(prompt) and text in whole[len(prompt) :]):
            return continuation
        behind = whole[len(prompt) :]
        return behind[: behind.index(text) + len(text)]

    def _new_tokens(self, prompt: str, text: str) -> int:
        """How many tokens of ``text`` are not yet those of ``prompt``, with which it begins.

        Where the two meet, a token may join them: it counts as new.
        """
        before, after = (
            self.processor.tokenizer(
                one, add_special_tokens=adds_special_tokens(self.processor, one)
            ).input_ids
            for one in (prompt, text)
        )
        shared = 0
        while shared < min(len(before), len(after)) and before[shared] == after[shared]:
            shared += 1
        return len(after) - shared

    def _inputs(self, asked: Sequence[Asked], texts: Sequence[str]) -> dict[str, Tensor]:
        try:
            inputs = model_inputs(self.processor, texts, [one.images for one in asked])
        except Exception as error:  # processors raise whatever goes wrong inside them
            raise self._refused(asked, error) from error
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def _refused(self, asked: Sequence[Asked], error: Exception) -> UserError:
        those = asked[0].where + (f", or one of {len(asked) - 1} more," if asked[1:] else "")
        return UserError(
            f"The {those} is refused by {type(self.processor).__name__} ({plain(error)}). Leave "
            f"the task out, or run it with --batch_size 1 to see which one it is."
        )


def _with_and_without_images(
    asked: Sequence[Asked], act: Callable[[Sequence[int]], list[Said]]
) -> list[Said]:
    """What ``act`` says of all numbers, asked apart: few processors take both in one batch."""
    found: dict[int, Said] = {}
    for shown in (True, False):
        numbers = [number for number, one in enumerate(asked) if bool(one.images) == shown]
        if numbers:
            found.update(zip(numbers, act(numbers)))
    return [found[number] for number in range(len(asked))]
