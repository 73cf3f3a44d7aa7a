"""Plain values of a file back to the dataclasses they came from; whatever else they are is refused.

A file may come from anywhere, so every value is compared with the type its field declares.
"""

import math
import sys
import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rcp.errors import UserError
from rcp.quoting import quoted

Made = TypeVar("Made")


def from_plain(cls: type[Made], values: Any) -> Made:
    """An object of the dataclass ``cls``, whose fields may be dataclasses, lists and dicts.

    Raises ``UserError`` that names what is unknown, missing, or of a wrong type.
    """
    hints = get_type_hints(cls)
    allowed = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, dict) or (unknown := set(values) - set(allowed)):
        named = isinstance(values, dict)
        what = f"the field {quoted(min(unknown, key=str))}" if named else quoted(values)
        raise UserError(
            f"{cls.__name__} has no place for {what}. Its fields are {', '.join(allowed)}. "
            f"Correct the name."
        )
    found = {
        name: of_type(hints[name], value, f"{cls.__name__}.{name}")
        for name, value in values.items()
    }
    try:
        return cls(**found)
    except TypeError as error:
        raise UserError(f"{cls.__name__} is incomplete: {error}. Add the missing field.") from None


def check_arguments(made: type, arguments: dict[str, Any]) -> None:
    """Raise ``UserError`` unless ``arguments`` have the types that ``made`` declares for them."""
    hints = get_type_hints(made.__init__)  # type: ignore[misc]
    for name, value in arguments.items():
        if name in hints:  # an unknown name is the call's own complaint
            of_type(hints[name], value, f"{made.__name__}'s {name}")


def of_type(kind: Any, value: Any, name: str) -> Any:
    """``value``, which messages call ``name``, as a ``kind``; ``UserError`` if it is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return of_type(next(part for part in inner if part is not type(None)), value, name)
    if is_dataclass(kind):
        return from_plain(kind, value)  # type: ignore[arg-type]
    if origin is list and isinstance(value, (list, tuple)):
        return [of_type(inner[0], part, name) for part in value]
    if origin is dict and isinstance(value, dict):
        return {
            of_type(inner[0], key, name): of_type(inner[1], part, name)
            for key, part in value.items()
        }
    if origin is Literal:
        if value in inner:
            return value
        raise UserError(
            f"{name} is {str(value)[:80]!r}, but it must be {' or '.join(map(repr, inner))}. "
            f"Correct the value."
        )
    if origin not in (None, list, dict) or kind is Any:
        return value  # a type that no field of a file has: the callee's own concern
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # false of NaN
            return float(value)
    elif origin is None and isinstance(value, bool) is (kind is bool) and isinstance(value, kind):
        return value
    wanted = "a finite float" if kind is float else kind.__name__ if origin is None else kind
    raise UserError(f"{name} is {str(value)[:80]!r}, but it must be {wanted}. Correct the value.")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ``ValueError`` unless ``low <= value <= high``; for arguments of a method."""
    if not low <= value <= high:
        allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} is {value}, but it must be {allowed}")
