"""A tiny random LLaVA as a folder, with a processor, and conversations to train on."""

import json
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = ("USER", "ASSISTANT", ":", "?", "what", "is", "how", "many", "the", "red", "dark", "two")
IMAGE_SIZE, PATCH, LAYERS = 16, 4, 4
TOKENS = (IMAGE_SIZE // PATCH) ** 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def make_processor(side: int = IMAGE_SIZE, patch: int = PATCH) -> LlavaProcessor:
    """One token a word; images of ``side`` pixels have (side / patch)² tokens."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    size = {"height": side, "width": side}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(do_resize=True, size=size, crop_size=size),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            additional_special_tokens=["<image>"],
        ),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def make_model() -> LlavaForConditionalGeneration:
    """4 decoder layers of width 32, random weights."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)
    return model


def conversation(number: int, **changes: object) -> dict[str, object]:
    """One well-formed row of a conversation file."""
    questions = (("what is the red ?", "dark", "attribute"), ("how many ?", "two", "counting"))
    question, answer, kind = questions[number % 2]
    row: dict[str, object] = {
        "id": f"sample-{number}",
        "image": f"images/{number % 3}.png",
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
        "question_type": kind,
    }
    return row | changes


def write_conversations(path: Path, rows: list[dict[str, object]]) -> Path:
    """A conversation file with its three images beside it."""
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        image = Image.new("RGB", (20, 24), (80 * number, 255 - 80 * number, 40))
        image.save(path.parent / "images" / f"{number}.png")
    path.write_text(json.dumps(rows))
    return path
