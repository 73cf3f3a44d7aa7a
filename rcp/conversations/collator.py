"""From loaded samples to the tensors a vision-language model takes."""

import logging
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from transformers import ProcessorMixin

from rcp.choosing.tokens import IGNORED
from rcp.conversations.padding import name_padding_token
from rcp.conversations.reader import PLACEHOLDER, LoadedSample, Sample
from rcp.errors import UserError

logger = logging.getLogger(__name__)


class Batch(TypedDict):
    """``inputs`` are the model's keyword arguments, whatever its processor returns.

    ``labels`` (B, T) long: answer tokens and the end-of-sequence token, ``IGNORED`` elsewhere;
    all ``IGNORED`` where the batch holds prompts only. Rows are padded on the left, so that
    answers end in the last column and ``generate`` can go on from it. ``skipped``: ids of samples
    that could not be read, with the reason.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    ids: list[str]
    question_types: list[str]
    answers: list[str]
    skipped: list[tuple[str, str]]


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
    without, rows end where the model would start to answer (generation). A sample longer than
    ``max_length`` tokens, image tokens included, is left out of its batch with a warning that
    names it: cutting it could cut image tokens.
    """

    def __init__(
        self, processor: ProcessorMixin, max_length: int = 1024, with_answers: bool = True
    ) -> None:
        if processor.chat_template is None:
            raise UserError(
                f"{type(processor).__name__} has no chat template, so that it is unknown how this "
                "model is asked a question. Put one into the folder of the base, as "
                "chat_template.jinja."
            )
        name_padding_token(processor.tokenizer)
        if with_answers and processor.tokenizer.eos_token is None:
            raise UserError(
                f"{type(processor.tokenizer).__name__} names no end-of-sequence token, so that no "
                "answer would end. Name one in the base's tokenizer_config.json, as eos_token."
            )
        self.processor = processor
        self.max_length = max_length
        self.with_answers = with_answers

    def __call__(self, items: Sequence[LoadedSample]) -> Batch:
        turns = [self._turn(item.sample) for item in items]
        inputs = self._process(items, turns)
        lengths = inputs["attention_mask"].sum(1).tolist()
        fits = [length <= self.max_length for length in lengths]
        fitting = list(compress(items, fits))
        if not all(fits):
            self._report_too_long(items, lengths)
            turns = list(compress(turns, fits))
            inputs = self._process(fitting, turns)
        samples = [item.sample for item in fitting]
        return Batch(
            inputs=inputs,
            labels=self._labels(inputs["input_ids"], samples, turns),
            ids=[sample.id for sample in samples],
            question_types=[sample.question_type for sample in samples],
            answers=[sample.answer for sample in samples],
            skipped=[skipped for item in items for skipped in item.skipped],
        )

    def _process(
        self, items: Sequence[LoadedSample], turns: Sequence[Turn]
    ) -> dict[str, Tensor]:
        texts = [turn.prompt + turn.continuation for turn in turns]
        # sample by sample: of a flat list, some processors take all images for the first text's
        images = [list(item.images) for item in items]
        encoded = self.processor(
            text=texts,
            images=images if any(images) else None,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=self._adds_special_tokens(texts[0]),
        )
        # PaliGemma writes labels, all ignored, in which a prompt to go on from has no end
        return {name: value for name, value in encoded.items() if name != "labels"}

    def _labels(
        self, input_ids: Tensor, samples: Sequence[Sample], turns: Sequence[Turn]
    ) -> Tensor:
        labels = torch.full_like(input_ids, IGNORED)
        if not self.with_answers:
            return labels
        for row, (sample, turn) in enumerate(zip(samples, turns)):
            answer = torch.tensor(self._answer_tokens(sample, turn))
            if not torch.equal(input_ids[row, -len(answer) :], answer):
                raise UserError(
                    f"The tokens of the answer to sample '{sample.id}' ({sample.answer!r}) are not "
                    f"the last ones that {type(self.processor).__name__} returns, so that it is "
                    "unclear which tokens to train on. Give the processor's tokenizer no "
                    "end-of-sequence token of its own to append, or another answer."
                )
            labels[row, -len(answer) :] = answer
        return labels

    def _answer_tokens(self, sample: Sample, turn: Turn) -> list[int]:
        """Token ids after the prompt: what the answer adds, provided it changes no prompt token."""
        tokens = [
            self.processor.tokenizer(
                text, add_special_tokens=self._adds_special_tokens(text)
            ).input_ids
            for text in (turn.prompt, turn.prompt + turn.continuation)
        ]
        length = len(tokens[0])
        if tokens[1][:length] != tokens[0]:
            raise UserError(
                f"The answer to sample '{sample.id}' ({sample.answer!r}) changes how its prompt is "
                "tokenised, so that training would not see the prompt that generation sees. "
                "Correct the chat template so that the generation prompt ends on a token boundary."
            )
        return tokens[1][length:]

    def _turn(self, sample: Sample) -> Turn:
        """The prompt, and the text that the model should generate: nothing without answers."""
        prompt = self._render(sample, answered=False)
        if not self.with_answers:
            return Turn(prompt, "")
        whole = self._render(sample, answered=True)
        if not whole.startswith(prompt):
            raise UserError(
                f"The chat template of {type(self.processor).__name__} writes a prompt for sample "
                f"'{sample.id}' that is not how the answered conversation begins, so that training "
                "would not see what generation sees. Give the processor a chat template whose "
                "generation prompt is the start of an assistant turn."
            )
        end = self.processor.tokenizer.eos_token
        answer = whole[len(prompt) :].rstrip()
        return Turn(prompt, answer if answer.endswith(end) else answer + end)

    def _render(self, sample: Sample, answered: bool) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": _content(sample.question)}]
        if answered:
            answer = [{"type": "text", "text": sample.answer}]
            messages.append({"role": "assistant", "content": answer})
        return self.processor.apply_chat_template(messages, add_generation_prompt=not answered)

    def _adds_special_tokens(self, text: str) -> bool:
        """Chat templates may write the begin-of-sequence token themselves; never have it twice."""
        begin = self.processor.tokenizer.bos_token
        return begin is None or not text.startswith(begin)

    def _report_too_long(self, items: Sequence[LoadedSample], lengths: Sequence[int]) -> None:
        for item, length in zip(items, lengths):
            if length > self.max_length:
                logger.warning(
                    "Sample '%s' has %d tokens, more than data.max_length = %d: left out.",
                    item.sample.id,
                    length,
                    self.max_length,
                )
        if min(lengths) > self.max_length:
            raise UserError(
                f"All {len(items)} samples of a batch (the first is '{items[0].sample.id}') have "
                f"more than {self.max_length} tokens, image tokens included. Raise "
                "data.max_length or shorten the texts."
            )


def _content(question: str) -> list[dict[str, Any]]:
    """A question with placeholders as the content list of a chat message."""
    content: list[dict[str, Any]] = []
    for number, text in enumerate(question.split(PLACEHOLDER)):
        if number:
            content.append({"type": "image"})
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
    return content
