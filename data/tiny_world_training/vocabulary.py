"""The tokenizer that knows the words of all kinds, and tiny-vlm with a vector for each new one."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from data.kinds.captions import OBJECTS
from data.kinds.comparisons import NUMBERS
from data.questions import COUNTS
from data.scenes import IMAGE_SIZE
from data.tiny_vlm_training.processor import (
    IMAGE,
    SPECIAL,
    UNKNOWN,
    WORDS,
    finished,
    make_processor,
)

EDGES = tuple(f"{edge / IMAGE_SIZE:.2f}" for edge in range(IMAGE_SIZE + 1))
NEW = ("\n", "[", "]", "where", "does", "sign", "say", "describe", "image", "which", "has", "most",
       "in", "and", "not", "answer", "moves", "move", "appears", "often", "flash", "each", "up",
       "down", *NUMBERS, *map(str, range(COUNTS.stop, OBJECTS.stop)), *EDGES)
KNOWN = len(SPECIAL) + len(WORDS)  # numbers from here on are new
# A share of a side ("0.17") is one token; a line break is one, too: it ends an image.
PIECE = r"\d+\.\d+|\w+|\n|[^\w\s]"
# Images stand where the question has them: demonstrations have text between theirs.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}")


def make_world_tokenizer() -> PreTrainedTokenizerFast:
    """tiny-vlm's words under their old numbers, then the new ones."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS, *NEW))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(PIECE), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Sequence([
        decoders.WordPiece(prefix="##", cleanup=True), decoders.Fuse(),
        decoders.Replace("[ ", "["), decoders.Replace(" ]", "]")])
    return finished(tokenizer, vocabulary)


def make_world_processor() -> LlavaProcessor:
    """tiny-vlm's, with the larger tokenizer and images where the question has them."""
    small = make_processor()
    return LlavaProcessor(
        image_processor=small.image_processor, tokenizer=make_world_tokenizer(),
        patch_size=small.patch_size, image_token=IMAGE, chat_template=CHAT_TEMPLATE,
        vision_feature_select_strategy=small.vision_feature_select_strategy,
        num_additional_image_tokens=small.num_additional_image_tokens)


@torch.no_grad()
def extend(model: LlavaForConditionalGeneration, words: int, seed: int) -> None:
    """Grow both tables of word vectors to ``words`` rows in place; the old rows stay as they are.

    A new row is a random direction, as long as the old ones are on average. Those of EDGES turn
    slowly from one to the next, so that neighbouring edges are alike.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = model.get_input_embeddings(), model.lm_head
    known, width = tables[0].weight.shape
    lengths = [table.weight.norm(dim=1).mean() for table in tables]
    new = torch.randn(words - known, width, generator=generator)
    turns = torch.linspace(0, 1, len(EDGES))[:, None] * torch.arange(1, 9) * torch.pi
    waves = torch.cat([turns.sin(), turns.cos()], 1)
    plane = torch.randn(waves.shape[1], width, generator=generator)
    new[-len(EDGES):] = waves @ plane + 0.5 * new[-len(EDGES):]
    new = nn.functional.normalize(new)
    model.resize_token_embeddings(words, mean_resizing=False)
    for table, length in zip((model.get_input_embeddings(), model.lm_head), lengths):
        table.weight[known:] = length * new
