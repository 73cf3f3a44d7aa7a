"""How a task wants its answers generated, as options of ``generate``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from rcp.errors import UserError
from rcp.quoting import quoted

LONGEST = 1024
"""New tokens of an answer at most, where a task does not say."""

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


@dataclass(frozen=True)
class Settings:
    """``options`` go to ``generate``; an answer ends before the first of ``until`` in it."""

    options: dict[str, Any]
    until: tuple[str, ...]

    def cut(self, answer: str) -> str:
        """``answer`` up to the first stop."""
        return answer[: min((answer.find(stop) for stop in self.until if stop in answer),
                            default=len(answer))]


def settings(given: Mapping[str, Any]) -> Settings:
    """From the generation arguments of a task.

    Greedy unless a temperature above zero, or sampling without a temperature, is asked for. What
    ``generate`` does not know is meant for other models, and left out. Raises ``UserError`` for
    stops that are no texts.
    """
    until = given.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) for stop in stops):
        raise UserError(f"until is {quoted(until)}: give a text or a list of texts.")
    known = vars(GenerationConfig())
    options = {name: value for name, value in given.items() if name in known and value is not None}
    options.setdefault("max_new_tokens", LONGEST)
    options.setdefault("num_beams", 1)
    temperature = options.get("temperature", float(options.get("do_sample", False)))
    options["do_sample"] = temperature > 0
    if not options["do_sample"]:
        options = {name: value for name, value in options.items() if name not in SAMPLING}
    return Settings(options, tuple(stop for stop in stops if stop))
