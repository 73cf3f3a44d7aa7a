"""What every metric of a public set is: named, with states that merge over processes."""

from typing import ClassVar

from torchmetrics import Metric

from rcp.registry import Registry

METRICS = Registry("metric", "rcp.evaluation.metrics")


class AnswerMetric(Metric):
    """Scores generated answers, batch by batch.

    ``update(predictions, references, ...)`` takes sequences that run in parallel, one entry a
    sample; ``compute()`` gives named 0-d tensors (float64), NaN where there was no sample to take
    a mean over. A metric sets ``name``, under which ``METRICS`` knows it, and ``source``, the
    publication or code whose rule it follows.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    full_state_update = False  # None would forbid ``merge_state``

    def __init_subclass__(cls) -> None:
        if cls.name:
            METRICS.register(cls.name, cls)
