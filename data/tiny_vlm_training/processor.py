"""The embedded model's tokenizer, image processor and chat template."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from data.questions import COUNTS
from data.scenes import COLOURS, IMAGE_SIZE, LETTERS, PATCH, SHAPES

PAD, BOS, EOS, UNKNOWN, IMAGE = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = ("USER", "ASSISTANT", ":", "?", ".", ",", "what", "is", "are", "how", "many", "there",
         "more", "the", "a", "of", "on", "or", "one", "colour", "shape", "letter", "object",
         "objects",
         "left", "right", "above", "below", "odd", "out", "largest", "dot", "yes", "no",
         *map(str, COUNTS), *COLOURS, *SHAPES, *LETTERS)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or punctuation mark; a beginning-of-text token is put in front."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    return finished(tokenizer, vocabulary)


def finished(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """With the special tokens, a beginning-of-text token in front, padded on the left."""
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS,
        unk_token=UNKNOWN, additional_special_tokens=[IMAGE], padding_side="left",
        model_max_length=2048)


def make_processor() -> LlavaProcessor:
    """Any image is resized to 96 x 96; one `<image>` becomes 144 image tokens."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessor(
        do_resize=True, size=side, do_center_crop=False, crop_size=side, do_rescale=True,
        do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    # The tower's [CLS] is the additional token that the "default" strategy drops again.
    return LlavaProcessor(
        image_processor=images, tokenizer=make_tokenizer(), patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        image_token=IMAGE, chat_template=CHAT_TEMPLATE)
