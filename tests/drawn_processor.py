"""A processor for any tiny model of tests/families: words are drawn, and so are the images."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from tests.families import Case, Sample
from tests.families.case import BOS, EOS, FIRST_WORD, IMAGE, LAST_WORD, PAD

PLACE = "<image>"
TEMPLATE = (
    "{% for message in messages %}{{ 'user ' if message['role'] == 'user' else 'assistant ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '</s> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
WORDS = ("user", "assistant", "?", "what", "is", "how", "many", "the", "red", "dark", "two")
PLACEHOLDER_ID = LAST_WORD - 1


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, with the ids that the tiny models know."""
    vocabulary = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": 3, PLACE: PLACEHOLDER_ID}
    vocabulary |= {word: FIRST_WORD + number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[PLACE],
    )


class DrawnProcessor(ProcessorMixin):
    """Shows, in place of any picture, what ``case`` draws for an image; its ids stand where the
    text has a placeholder."""

    case: Case

    def __init__(self, tokenizer: Any, chat_template: str) -> None:
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def of(cls, case: Case) -> "DrawnProcessor":
        processor = cls(make_tokenizer(), TEMPLATE)
        processor.case = case
        return processor

    def to_json_string(self) -> str:
        return "{}"

    def __call__(
        self, text: Sequence[str], images: Any = None, **options: Any
    ) -> BatchFeature:
        counts = [one.split().count(PLACE) for one in text]
        drawn = self.case.inputs([Sample(seed=3, images=count) for count in counts])
        rows = [self._filled(one, shown) for one, shown in zip(text, self._shown(drawn))]
        width = max(len(ids) for ids, _ in rows)
        found = {name: value for name, value in drawn.items() if name not in ("input_ids",)}
        found["input_ids"] = _left_padded([ids for ids, _ in rows], width, PAD)
        found["attention_mask"] = _left_padded([[1] * len(ids) for ids, _ in rows], width, 0)
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in drawn:
                found[name] = _left_padded([types for _, types in rows], width, 0)
        return BatchFeature(found)

    def _shown(self, drawn: dict[str, Tensor]) -> list[list[list[tuple[int, int]]]]:
        """Of every row the images, each as ids and types."""
        types = drawn.get("mm_token_type_ids", torch.zeros_like(drawn["input_ids"]))
        found = []
        for ids, kinds in zip(drawn["input_ids"].tolist(), types.tolist()):
            images: list[list[tuple[int, int]]] = []
            before = False
            for one in zip(ids, kinds):
                of_image = one[0] >= IMAGE
                if of_image and not before:
                    images.append([])
                if of_image:
                    images[-1].append(one)
                before = of_image
            found.append(images)
        return found

    def _filled(
        self, text: str, images: list[list[tuple[int, int]]]
    ) -> tuple[list[int], list[int]]:
        row: list[tuple[int, int]] = []
        for one in self.tokenizer(text, add_special_tokens=False).input_ids:
            row += images.pop(0) if one == PLACEHOLDER_ID else [(one, 0)]
        return [one for one, _ in row], [kind for _, kind in row]


def _left_padded(rows: list[list[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([[fill] * (width - len(row)) + row for row in rows])
