"""The embedded model, its questions, and the rows finished so far."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rcp.atomic_write import atomic
from rcp.backbones import backbone_for
from rcp.base_model.loading import load_base
from rcp.choosing.schedule import Schedule, schedule_for
from rcp.conversations import ConversationDataset
from rcp.evaluation.contestants import FULL, Contestant
from rcp.evaluation.generation import Questions
from rcp.evaluation.prefill import plugin_flops, selection_seconds, speedups
from rcp.evaluation.preparation import conversation_batches
from rcp.evaluation.report.rows import ResultRow, pooled
from rcp.evaluation.studies.attention_trend import attention_trends
from rcp.evaluation.studies.horizon import horizon, information_by_layer
from rcp.plugin import Plugin, PluginSpec, StageSpec

BASE = Path("data/tiny-vlm")
SHARE = 1 / 9
LAYERS = (1, 8, 15)
"""Stages of the second table; nothing that looks at the layer before can prune earlier."""
CALIBRATION = 200
"""Validation questions that the attention trend and the horizon are measured on."""
TOLERANCE = 0.01
"""Probability of the right answer that may be left at the horizon."""

UNREAD_CLS = "nothing this model was trained for reads its tower's last [CLS] attention"
REMARKS = {
    "cls_attention": UNREAD_CLS,
    "aot": UNREAD_CLS,
    "evit": UNREAD_CLS,
    "holov": UNREAD_CLS,
    "agilepruner": UNREAD_CLS,
    "todre": UNREAD_CLS,
    "visiondrop_encoder": UNREAD_CLS,
    "feather": "its grid alone is 16 of 144 tokens",
    "todre_exit": "its threshold is a guess",
    "without_sinks": "no activation can reach its threshold at a width of 96",
    "oracle": "runs the full model first: saves nothing",
}
"""What a row must say about a method on this model."""


@dataclass(frozen=True)
class Entry:
    """One line of a table. ``row`` is None where the method cannot be used; ``remark`` says why,
    or what it is not on this model. ``selection`` is in seconds a prefill of 8 samples."""

    method: str
    row: ResultRow | None
    selection: float | None = None
    remark: str = ""


class Bench:
    """The questions, what has been measured about the model, and the rows finished so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder: Path = options.runs
        self.model, self.processor = load_base(str(BASE), "float32", "cpu")
        self.backbone = backbone_for(self.model)
        self.depth = len(self.backbone.layers)
        data = ConversationDataset(options.data, None)
        self.questions = Questions(
            self.backbone, self.processor, data, limit=options.limit, max_new_tokens=4
        )
        self.samples = self.questions.first(8)
        self.rounds: int = options.rounds
        self.validation = ConversationDataset(options.validation, None)
        self.schedules = {
            "entering": Schedule((0,), (SHARE,), self.depth),
            "mean": schedule_for(SHARE, LAYERS, self.depth),
        }

    def growths(self) -> dict[str, float]:
        """By layer, how attention grows along the tokens, for `debiased`."""

        def measure() -> Any:
            layers = sorted({at for found in self.schedules.values() for at in found.layers})
            trends = attention_trends(self.model, self._validation(False), layers)
            return {str(layer): trend.growth for layer, trend in trends.items()}

        return self._kept("debiasing", measure)

    def horizon(self) -> int:
        """The layer from which on visual tokens tell nothing."""
        def measure() -> Any:
            return information_by_layer(self.model, self._validation(True))

        return horizon(self._kept("information", measure), TOLERANCE)

    def plugin(self, stages: Sequence[StageSpec]) -> Plugin:
        """A plug-in of these stages."""
        return Plugin.for_model(PluginSpec(stages=list(stages)), self.model).eval()

    def entry(self, table: str, method: str, contestants: Sequence[Contestant]) -> Entry:
        """The finished line of ``method``, measured unless it is there already."""
        path = self.folder / table / f"{method}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            if found["row"]["n"] == self.questions.count:
                return Entry(**found | {"row": ResultRow(**found["row"])})
        tallies = self.questions.answer(contestants)
        first, full, prepare = contestants[0], Contestant(FULL), self.questions.prepare
        own = plugin_flops(prepare, first, self.samples[0])
        _, speedup = speedups(prepare, [full, first], self.samples, self.rounds)
        selection = None
        if first.plugin is not None:
            selection = selection_seconds(prepare, first, self.samples, self.rounds)
        row = pooled(method, tallies, tallies[0], own, speedup)
        entry = Entry(method, row, selection, REMARKS.get(method, ""))
        self._write(path, asdict(entry))
        return entry

    def _validation(self, with_answers: bool) -> Iterator[Any]:
        count = min(CALIBRATION, self.questions.count)
        return conversation_batches(
            self.processor, self.validation, count, 32, with_answers=with_answers
        )

    def _kept(self, name: str, measure: Any) -> Any:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            self._write(path, measure())
        return json.loads(path.read_text())

    def _write(self, path: Path, content: Any) -> None:
        with atomic(path) as unfinished:
            unfinished.write_text(json.dumps(content))
