"""From loaded samples to the tensors a vision-language model takes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor
from transformers import ProcessorMixin

from rcp.choosing.tokens import IGNORED
from rcp.conversations.padding import name_padding_token
from rcp.conversations.prompting import adds_special_tokens, model_inputs, refuse_no_template
from rcp.conversations.reserved import ReservedTokens
from rcp.conversations.sample import (
    PLACEHOLDER,
    LoadedSample,
    Sample,
    Skipped,
    TooLong,
    Unfit,
    Unreadable,
)
from rcp.errors import UserError
from rcp.quoting import plain, quoted

Given = TypeVar("Given")
Made = TypeVar("Made")


class Batch(TypedDict):
    """``inputs`` are the model's keyword arguments, whatever its processor returns.

    ``labels`` (B, T) long: answer tokens and the end-of-sequence token, ``IGNORED`` elsewhere;
    all ``IGNORED`` where the batch holds prompts only. Rows are padded on the left, so that
    answers end in the last column and ``generate`` can go on from it. ``own`` says of each sample
    whether it is the one asked for, or stands in for one of ``skipped``, which could not be read.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    ids: list[str]
    question_types: list[str]
    answers: list[str]
    skipped: list[Skipped]
    own: list[bool]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """``batch`` with its inputs and labels on ``device``."""
    inputs = {name: value.to(device) for name, value in batch["inputs"].items()}
    return {**batch, "inputs": inputs, "labels": batch["labels"].to(device)}


class Turn(NamedTuple):
    """One sample as the chat template writes it: the prompt, and what the model should add."""

    prompt: str
    continuation: str


class ConversationCollator:
    """Renders samples with the processor's chat template, tokenises and labels them.

    With ``with_answers`` the answer and the end-of-sequence token follow the prompt (training);
    without, rows end where the model would start to answer (generation). Raises ``Unfit``, which
    says of each sample that cannot be in the batch why: its text holds one of the processor's own
    tokens, the processor refuses it, or it has more than ``max_length`` tokens, image tokens
    included (cutting it could cut image tokens).
    """

    def __init__(
        self, processor: ProcessorMixin, max_length: int = 1024, with_answers: bool = True
    ) -> None:
        refuse_no_template(processor)
        name_padding_token(processor.tokenizer)
        if with_answers and processor.tokenizer.eos_token is None:
            raise UserError(
                f"{type(processor.tokenizer).__name__} names no end-of-sequence token, so that no "
                "answer would end. Name one in the base's tokenizer_config.json, as eos_token."
            )
        self.processor = processor
        self.max_length = max_length
        self.with_answers = with_answers
        self.reserved = ReservedTokens(processor)

    def __call__(self, items: Sequence[LoadedSample]) -> Batch:
        samples = [item.sample for item in items]
        turns = _each(samples, self._turn)
        inputs = self._processed(items, turns)
        self._refuse_too_long(samples, inputs["attention_mask"].sum(1).tolist())
        return Batch(
            inputs=inputs,
            labels=self._labels(inputs["input_ids"], samples, turns),
            ids=[sample.id for sample in samples],
            question_types=[sample.question_type for sample in samples],
            answers=[sample.answer for sample in samples],
            skipped=[],
            own=[True] * len(samples),
        )

    def _processed(
        self, items: Sequence[LoadedSample], turns: Sequence[Turn]
    ) -> dict[str, Tensor]:
        """The inputs of all; if the processor refuses them, says which ones it refuses alone."""
        try:
            return self._process(items, turns)
        except Exception as error:  # processors raise whatever goes wrong inside them
            if len(items) > 1:
                _each(range(len(items)), lambda n: self._processed([items[n]], [turns[n]]))
            raise Unfit({0: self._refused(items[0].sample, error)}) from error

    def _refused(self, sample: Sample, error: Exception) -> Unreadable:
        why = plain(error) or type(error).__name__
        return Unreadable(
            f"Sample {quoted(sample.id)} is refused by {type(self.processor).__name__} ({why}). "
            "Correct or replace its images and its text, or remove the sample.",
            sample.id,
        )

    def _process(
        self, items: Sequence[LoadedSample], turns: Sequence[Turn]
    ) -> dict[str, Tensor]:
        texts = [turn.prompt + turn.continuation for turn in turns]
        return model_inputs(self.processor, texts, [item.images for item in items])

    def _labels(
        self, input_ids: Tensor, samples: Sequence[Sample], turns: Sequence[Turn]
    ) -> Tensor:
        labels = torch.full_like(input_ids, IGNORED)
        if not self.with_answers:
            return labels
        tokens = _each(range(len(turns)), lambda n: self._answer_tokens(samples[n], turns[n]))

        def label(row: int) -> None:
            answer = torch.tensor(tokens[row])
            if not torch.equal(input_ids[row, -len(answer) :], answer):
                raise Unreadable(
                    f"The tokens of the answer to sample {quoted(samples[row].id)} "
                    f"({quoted(samples[row].answer)}) are not the last ones that "
                    f"{type(self.processor).__name__} returns, so that it is unclear which tokens "
                    "to train on. Give the processor's tokenizer no end-of-sequence token of its "
                    "own to append, or another answer.",
                    samples[row].id,
                )
            labels[row, -len(answer) :] = answer

        _each(range(len(turns)), label)
        return labels

    def _answer_tokens(self, sample: Sample, turn: Turn) -> list[int]:
        """Token ids after the prompt: what the answer adds, provided it changes no prompt token."""
        tokens = [
            self.processor.tokenizer(
                text, add_special_tokens=adds_special_tokens(self.processor, text)
            ).input_ids
            for text in (turn.prompt, turn.prompt + turn.continuation)
        ]
        length = len(tokens[0])
        if tokens[1][:length] != tokens[0]:
            raise Unreadable(
                f"The answer to sample {quoted(sample.id)} ({quoted(sample.answer)}) changes how "
                "its prompt is tokenised, so that training would not see the prompt that "
                "generation sees. Correct the chat template so that the generation prompt ends on "
                "a token boundary.",
                sample.id,
            )
        return tokens[1][length:]

    def _turn(self, sample: Sample) -> Turn:
        """The prompt, and the text that the model should generate: nothing without answers."""
        self.reserved.refuse(sample)
        try:
            return self._rendered(sample)
        except UserError:
            raise
        except Exception as error:  # templates refuse what their authors thought of, by any error
            raise self._refused(sample, error) from error

    def _rendered(self, sample: Sample) -> Turn:
        prompt = self._render(sample, answered=False)
        if not self.with_answers:
            return Turn(prompt, "")
        whole = self._render(sample, answered=True)
        if not whole.startswith(prompt):
            raise Unreadable(
                f"The chat template of {type(self.processor).__name__} writes a prompt for sample "
                f"{quoted(sample.id)} that is not how the answered conversation begins, so that "
                "training would not see what generation sees. Give the processor a chat template "
                "whose generation prompt is the start of an assistant turn.",
                sample.id,
            )
        end = self.processor.tokenizer.eos_token
        answer = whole[len(prompt) :].rstrip()
        return Turn(prompt, answer if answer.endswith(end) else answer + end)

    def _render(self, sample: Sample, answered: bool) -> str:
        messages: list[dict[str, Any]] = []
        for question, answer in (*sample.earlier, (sample.question, sample.answer)):
            said = [{"type": "text", "text": answer}]
            messages.append({"role": "user", "content": _content(question)})
            messages.append({"role": "assistant", "content": said})
        messages = messages if answered else messages[:-1]
        return self.processor.apply_chat_template(messages, add_generation_prompt=not answered)

    def _refuse_too_long(self, samples: Sequence[Sample], lengths: Sequence[int]) -> None:
        faults: dict[int, Unreadable] = {
            number: TooLong(
                f"Sample {quoted(sample.id)} has {length} tokens, image tokens included, more than "
                f"data.max_length = {self.max_length}. Raise data.max_length or shorten the text.",
                sample.id,
            )
            for number, (sample, length) in enumerate(zip(samples, lengths))
            if length > self.max_length
        }
        if faults:
            raise Unfit(faults)


def _each(values: Iterable[Given], act: Callable[[Given], Made]) -> list[Made]:
    """``act`` on all ``values``; raises ``Unfit`` with what it finds wrong with any of them."""
    made, faults = [], {}
    for number, value in enumerate(values):
        try:
            made.append(act(value))
        except (Unreadable, Unfit) as fault:
            faults[number] = fault.faults[0] if isinstance(fault, Unfit) else fault
    if faults:
        raise Unfit(faults)
    return made


def _content(question: str) -> list[dict[str, Any]]:
    """A question with placeholders as the content list of a chat message."""
    content: list[dict[str, Any]] = []
    for number, text in enumerate(question.split(PLACEHOLDER)):
        if number:
            content.append({"type": "image"})
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
    return content
