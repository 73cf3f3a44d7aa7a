"""What a model answers to prompts."""

from typing import Any


def greedy_answers(
    model: Any, processor: Any, inputs: dict[str, Any], max_new_tokens: int, **options: Any
) -> list[str]:
    """The text that ``model`` adds to each prompt of ``inputs``, greedily, as it is attached now.

    ``inputs`` are padded on the left and lie on the model's device; ``options`` go to its
    ``generate``.
    """
    tokens = model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=processor.tokenizer.pad_token_id,
        **options,
    )
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.batch_decode(new, skip_special_tokens=True)
