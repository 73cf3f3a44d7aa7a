"""What a row of a published set asks, where its columns are none of the layouts of ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcp.conversations.layouts import Row


@dataclass(frozen=True)
class Asked:
    """One question of a published row: ``row`` in a layout of :mod:`rcp.conversations.layouts`.

    ``facts`` are what its scoring is told besides: :attr:`rcp.conversations.sample.Sample.facts`.
    """

    row: Row
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reading:
    """How rows of a published set are read.

    ``columns`` of a table are read whole and whatever their type, bytes of images included, when
    it is opened; of others only what is text, and what tells that there is an image.

    ``asked`` gives the questions of a row, all about the same images in the same order; none where
    the row is no part of the set. It raises :class:`~rcp.conversations.layouts.Refused`.
    """

    asked: Callable[[Any], Sequence[Asked]] = lambda row: [Asked(row)]
    columns: frozenset[str] = frozenset()


AS_IT_STANDS = Reading()
"""For rows that are in a layout of ours."""
