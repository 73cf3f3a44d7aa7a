"""The two labels of questions that ask whether something is so."""

from rcp.errors import UserError
from rcp.quoting import quoted


def label(reference: str) -> bool:
    """Whether ``reference`` is "yes"; raises ``UserError`` for all but "yes" and "no"."""
    word = reference.strip().lower()
    if word not in ("yes", "no"):
        raise UserError(
            f"The reference {quoted(reference)} is neither 'yes' nor 'no': give one of them."
        )
    return word == "yes"
