"""What a model answers to prompts."""

from typing import Any

from torch import Tensor


def greedy_answers(
    model: Any, processor: Any, inputs: dict[str, Any], max_new_tokens: int, **options: Any
) -> list[str]:
    """The text that ``model`` adds to each prompt of ``inputs``, greedily, as it is attached now.

    ``inputs`` are padded on the left and lie on the model's device; ``options`` go to its
    ``generate``.
    """
    greedily = {"do_sample": False, "num_beams": 1, "max_new_tokens": max_new_tokens}
    return answers(model, processor, inputs, **greedily, **options)


def answers(model: Any, processor: Any, inputs: dict[str, Any], **options: Any) -> list[str]:
    """As :func:`greedy_answers`, generated as ``options`` of ``generate`` say."""
    padding = processor.tokenizer.pad_token_id
    tokens: Tensor = model.generate(**inputs, pad_token_id=padding, **options)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.batch_decode(new, skip_special_tokens=True)
