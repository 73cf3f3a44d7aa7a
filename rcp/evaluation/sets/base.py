"""What every published evaluation set is: a rule of asking and of scoring, and where it lies."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torchmetrics import Metric

from rcp.conversations import Sample
from rcp.conversations.asked import Asked, Reading
from rcp.conversations.layouts import Refused, Row
from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import METRICS
from rcp.evaluation.scoring import Scoring
from rcp.refusals import refuse_unequal
from rcp.registry import Registry

SETS = Registry("evaluation set", "rcp.evaluation.sets")

Facts = Mapping[str, Any]
"""What a metric's ``update`` is told of one sample besides the prediction, by parameter."""


@dataclass(frozen=True)
class Hub:
    """Where a set lies on the hub: data set, split and configuration, as they are called there."""

    name: str
    split: str
    configuration: str = ""

    @property
    def source(self) -> str:
        """As :func:`~rcp.conversations.source.open_conversations` takes it."""
        return "/".join(filter(None, (f"hf:{self.name}", self.configuration))) + f":{self.split}"


class EvaluationSet(Scoring):
    """A published set of questions.

    A set gives ``name``, under which ``SETS`` knows it, and :meth:`question`; the rest of it are
    values. ``prompt`` shows how a question is asked, ``prompt_source`` who asks so. ``metric`` is a
    name of ``METRICS``, made with ``arguments``; ``primary`` one of its figures, ``own`` the figure
    that one sample has by itself, where that is another. ``parsing`` says what is read in an answer
    and what becomes of one that cannot be parsed. ``max_new_tokens``: the longest answer.

    ``hub``: where it lies; ``images_of_hub``: where its images do, if in a table of their own;
    ``beside_hub``: why what lies there is not enough, else empty. ``rows``: how many rows of the
    published split ask a question. ``columns`` are those of a table that are read whole and
    whatever their type. ``files`` are the set's own files that are read, too, and ``image_folder``
    where their images lie, in a folder with local files. ``unverified`` says what of all this could
    not be looked up.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str]
    hub: ClassVar[Hub]
    images_of_hub: ClassVar[Hub | None] = None
    beside_hub: ClassVar[str] = ""
    rows: ClassVar[int]
    prompt: ClassVar[str]
    prompt_source: ClassVar[str]
    metric: ClassVar[str]
    arguments: ClassVar[Mapping[str, Any]] = {}
    own: ClassVar[str] = ""
    parsing: ClassVar[str]
    max_new_tokens: ClassVar[int]
    columns: ClassVar[frozenset[str]] = frozenset()
    files: ClassVar[tuple[str, ...]] = ()
    image_folder: ClassVar[str] = "images"
    unverified: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if cls.name:
            SETS.register(cls.name, cls)

    def __init__(self, root: Path | None = None, image_path: Path | None = None) -> None:
        """``root``: the folder of local files, None where the set comes from the hub.

        ``image_path``: where paths of images start. ``images``: those of ``images_of_hub``, by id.
        """
        self.root = root
        self.image_path = image_path or Path()
        self.images: Mapping[str, Any] = {}

    @property
    def reading(self) -> Reading:
        """How the reader is to understand the rows."""
        return Reading(self._asked, self.columns)

    def question(self, row: Row) -> Asked | None:
        """What ``row``, in the columns of the hub or of ``files``, asks.

        Its facts are told to the metric; None where the row is no part of the set. Raises
        ``Refused`` for a row that lacks something.
        """
        raise NotImplementedError

    def questions(self, row: Row) -> list[Asked]:
        """Likewise, for a set of which a row asks several ones."""
        asked = self.question(row)
        return [] if asked is None else [asked]

    def check(self, samples: Sequence[Sample]) -> None:
        """Raise ``UserError`` for ``samples`` that cannot be scored beside each other."""

    def parsed(self, answer: str, sample: Sample) -> str:
        """What the metric is told of ``answer``."""
        return answer

    @cached_property
    def counter(self) -> Metric:
        """The metric: made once, and reset for whatever is counted next."""
        return METRICS.get(self.metric)(**self.arguments)

    def score(self, answer: str, sample: Sample) -> float:
        return self.figures([answer], [sample])[self.own or self.primary]

    def references(self, sample: Sample) -> list[str]:
        several = (sample.facts or {}).get("references")
        if not isinstance(several, list):  # one answer, which the sample writes as a model would
            return [sample.answer]
        return list(dict.fromkeys(several))

    def figures(self, answers: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        refuse_unequal(answers=answers, samples=samples)
        parsed = [self.parsed(answer, sample) for answer, sample in zip(answers, samples)]
        return self._figures(parsed, [sample.facts or {} for sample in samples])

    def _figures(self, predictions: Sequence[str], facts: Sequence[Facts]) -> dict[str, float]:
        metric = self.counter
        metric.reset()
        if facts:
            columns = {name: [one[name] for one in facts] for name in facts[0]}
            metric.update(list(predictions), **columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a metric without samples: that is no fault
            return {name: value.item() for name, value in metric.compute().items()}

    def _asked(self, row: Any) -> list[Asked]:
        if not isinstance(row, dict):
            return [Asked(row)]  # the reader knows what to say of it
        asked = self.questions(row)
        for one in asked:
            self._refuse_unscorable(one.facts or {})
        return asked

    def _refuse_unscorable(self, facts: Facts) -> None:
        """Raise ``Refused`` for what the metric would refuse when all answers have been given."""
        try:
            self.counter.update([""], **{name: [value] for name, value in facts.items()})
        except UserError as error:
            raise Refused(f"cannot be scored: {error}") from None
        finally:
            self.counter.reset()
