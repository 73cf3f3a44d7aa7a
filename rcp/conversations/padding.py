"""The token that fills short rows, for tokenizers that name none."""

from typing import Any

from rcp.errors import UserError


def name_padding_token(tokenizer: Any) -> None:
    """Give ``tokenizer`` a padding token where it has none: its end of sequence, else its unknown.

    Which one changes nothing: attention masks leave it out, and labels are never read off it.
    Raises ``UserError`` where it has neither.
    """
    if _is_token(tokenizer, tokenizer.pad_token):
        return
    for token in (tokenizer.eos_token, tokenizer.unk_token):
        if _is_token(tokenizer, token):
            tokenizer.pad_token = token
            return
    raise UserError(
        f"{type(tokenizer).__name__} names no padding token ({tokenizer.pad_token!r}), and no "
        "end-of-sequence or unknown token to take in its place, so that texts of different length "
        "make no batch. Name one in the base's tokenizer_config.json, as pad_token."
    )


def _is_token(tokenizer: Any, token: str | None) -> bool:
    """Whether ``token`` is in the vocabulary; a name alone may stand for nothing."""
    return token is not None and tokenizer.get_vocab().get(token) is not None
