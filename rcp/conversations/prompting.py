"""From prompts as a chat template writes them to the tensors that a model takes."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from rcp.errors import UserError


def refuse_no_template(processor: Any) -> None:
    """Raise ``UserError`` for a ``processor`` that does not know how its model is asked."""
    if processor.chat_template is None:
        raise UserError(
            f"{type(processor).__name__} has no chat template, so that it is unknown how this "
            "model is asked a question. Put one into the folder of the base, as "
            "chat_template.jinja."
        )


def adds_special_tokens(processor: Any, text: str) -> bool:
    """Chat templates may write the begin-of-sequence token themselves; never have it twice."""
    begin = processor.tokenizer.bos_token
    return begin is None or not text.startswith(begin)


def model_inputs(
    processor: Any, texts: Sequence[str], images: Sequence[Sequence[Image.Image]]
) -> dict[str, Tensor]:
    """The keyword arguments of the model for ``texts``, each with its ``images``.

    Rows are padded on the left, so that texts end in the last column and ``generate`` can go on
    from there. Raises whatever the processor does.
    """
    # text by text: of a flat list, some processors take all images for the first one's
    given = [list(of_one) for of_one in images]
    encoded = processor(
        text=list(texts),
        images=given if any(given) else None,
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=adds_special_tokens(processor, texts[0]),
    )
    # PaliGemma writes labels, all ignored, in which a prompt to go on from has no end
    return {name: value for name, value in encoded.items() if name != "labels"}
