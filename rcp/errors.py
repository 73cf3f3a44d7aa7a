"""Exceptions that mean "the input is at fault, not the program"."""

import re

BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
HANDED_ON = re.compile(r"(?sm)\ACaught .*\nOriginal Traceback .*^[\w.]+: (.*)\Z")
"""What a data loader makes of an exception in its worker: all of the traceback, ours at its end."""


class UserError(ValueError):
    """Bad input. The message names the value, what is allowed and the next step.

    Scripts print it as one paragraph and exit with status 2; as a library call it is an
    ordinary ``ValueError``. Whatever it quotes, the message is one line without control characters.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(HANDED_ON.sub(r"\1", message)))


class StoppedTogether(UserError):
    """Ends a training, and is raised by all of its processes after one and the same step.

    What they do together, such as writing a checkpoint, can therefore still be done.
    """


def one_line(text: str) -> str:
    """``text`` without breaks, and with whatever cannot be printed written as Python writes it."""
    joined = BREAK.sub(" ", text.strip())
    if joined.isprintable():
        return joined
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
