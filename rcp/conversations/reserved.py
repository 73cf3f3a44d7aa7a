"""Tokens that a processor writes itself, which no text of a sample may hold."""

from typing import Any

from transformers import AddedToken

from rcp.conversations.sample import PLACEHOLDER, Sample, Unreadable
from rcp.quoting import quoted

ORDINARY = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Tokens of text, which some processors know, too."""


class ReservedTokens:
    """What ``processor`` writes in the place of images, videos and the like, and around them.

    In a question or an answer they would stand for an image that is not there, which only the
    model would notice.
    """

    def __init__(self, processor: Any) -> None:
        self.owner = type(processor).__name__
        self.tokens = sorted(
            str(value)
            for name, value in vars(processor).items()
            if name.endswith("_token")
            and name not in ORDINARY
            and isinstance(value, (str, AddedToken))
        )

    def refuse(self, sample: Sample) -> None:
        """Raise ``Unreadable`` where a text of ``sample`` holds one of them."""
        for number, text in enumerate(sample.texts):
            field = "answer" if number % 2 else "question"
            said = text if number % 2 else text.replace(PLACEHOLDER, "\n")
            for token in self.tokens:
                if token in said:
                    raise Unreadable(
                        f"Sample {quoted(sample.id)} has {quoted(token)} in its {field}, which "
                        f"{self.owner} puts in the place of an image itself. Write "
                        f"'{PLACEHOLDER}' in the question for each image; remove it elsewhere, or "
                        "remove the sample.",
                        sample.id,
                    )
