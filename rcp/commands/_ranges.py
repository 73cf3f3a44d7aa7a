"""Arguments of a method given as ranges to search: NAME=LOW..HIGH."""

import inspect
import math
from collections.abc import Sequence

from rcp.errors import UserError
from rcp.evaluation.studies.schedule_search import Range
from rcp.pruners import PRUNERS


def ranges_of(method: str, texts: Sequence[str]) -> dict[str, Range]:
    """What each of ``texts`` says of an argument of the pruner ``method``, by name.

    Whole numbers are searched where the argument's own default is one. Raises ``UserError`` for
    what is no range, for an argument that is no number, and for ends the method does not take.
    """
    made = PRUNERS.get(method)
    usual = {
        name: parameter.default
        for name, parameter in inspect.signature(made.__init__).parameters.items()
        if type(parameter.default) in (int, float) and name != "seed"
    }
    found: dict[str, Range] = {}
    for text in texts:
        name, _, ends = text.partition("=")
        if name not in usual or name in found:
            what = "is given twice" if name in found else f"names no number '{method}' takes"
            raise UserError(
                f"--argument {text} {what}. Its numbers are {', '.join(sorted(usual)) or 'none'}; "
                f"give each once."
            )
        kind = type(usual[name])
        low, separator, high = ends.partition("..")
        try:
            found[name] = Range(kind(low), kind(high), usual[name])
        except ValueError:
            separator = ""
        if not separator or not -math.inf < found[name].low < found[name].high < math.inf:
            numbers = "whole numbers" if kind is int else "numbers"
            raise UserError(
                f"--argument {text} is no range: write NAME=LOW..HIGH with two {numbers}, the "
                f"lower first, as in {name}={usual[name]}..{2 * usual[name] + 1}."
            )
        try:
            for end in (found[name].low, found[name].high):
                made(1, **{name: end})
        except ValueError as error:
            raise UserError(f"--argument {text}: {error}. Give a range within that.") from None
    return found
