"""All methods at equal budgets on the embedded model: `python -m benchmarks.methods`.

Two tables. *Entering*: N/9 of the visual tokens enter the decoder, chosen before it. *Mean*: N/9
on average over its layers, dropped at the same three stages, the first of them at layer 1.
Every registered pruner without weights takes part by existing; exported plug-ins are named on the
command line and join the second table at their own schedule. A finished row is kept in the run
folder and not computed again. Ends in results/methods.json, .md and .png.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.methods_figure import draw
from rcp.backbones import backbone_for
from rcp.base_model import load_base
from rcp.commands._questions import batches
from rcp.conversations import ConversationDataset
from rcp.errors import UserError
from rcp.evaluation import tables
from rcp.evaluation.attention_trend import attention_trends
from rcp.evaluation.contestants import FULL, Contestant
from rcp.evaluation.entrants import compared
from rcp.evaluation.generation import Questions
from rcp.evaluation.horizon import horizon, information_by_layer
from rcp.evaluation.images import blank_image, downsampled_input
from rcp.evaluation.prefill import extra_flops, selection_seconds, speedups
from rcp.evaluation.rows import Row, pooled
from rcp.plugin import Plugin, PluginSpec, StageSpec
from rcp.pruners import PRUNERS
from rcp.schedule import Schedule, schedule_for

RESULTS = Path(__file__).parent / "results"
BASE = Path("data/tiny-vlm")
SHARE = 1 / 9
LAYERS = (1, 8, 15)
"""Stages of the second table; nothing that looks at the layer before can prune earlier."""
SEEDS = 3
CALIBRATION = 200
"""Validation questions that the attention trend and the horizon are measured on."""
TOLERANCE = 0.01
"""Probability of the right answer that may be left at the horizon."""
TABLES = {
    "entering": "N/9 visual tokens enter the decoder",
    "mean": "N/9 visual tokens, mean over the decoder's layers",
}

UNREAD_CLS = "nothing this model was trained for reads its tower's last [CLS] attention"
REMARKS = {
    "cls_attention": UNREAD_CLS,
    "evit": UNREAD_CLS,
    "holov": UNREAD_CLS,
    "agilepruner": UNREAD_CLS,
    "todre": UNREAD_CLS,
    "visiondrop_encoder": UNREAD_CLS,
    "feather": "its grid alone is 16 of 144 tokens",
    "todre_exit": "its threshold is a guess",
    "without_sinks": "no activation can reach its threshold at a width of 96",
    "oracle": "runs the full model first: a bound, not a saving",
}
"""What a row must say about a method on this model."""


@dataclass(frozen=True)
class Entry:
    """One line of a table. ``row`` is None where the method cannot be used; ``remark`` says why,
    or what it is not on this model. ``selection`` is in seconds a prefill of 8 samples."""

    method: str
    row: Row | None
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
                return Entry(**found | {"row": Row(**found["row"])})
        tallies = self.questions.answer(contestants)
        first, full, prepare = contestants[0], Contestant(FULL), self.questions.prepare
        own, common = (
            extra_flops(prepare, each, self.backbone, self.samples[0]) for each in (first, full)
        )
        _, speedup = speedups(prepare, [full, first], self.samples, self.rounds)
        selection = None
        if first.plugin is not None:
            selection = selection_seconds(prepare, first, self.samples, self.rounds)
        row = pooled(method, tallies, tallies[0], own - common, speedup)
        entry = Entry(method, row, selection, REMARKS.get(method, ""))
        self._write(path, asdict(entry))
        return entry

    def _validation(self, with_answers: bool) -> Iterator[Any]:
        count = min(CALIBRATION, self.questions.count)
        return batches(self.processor, self.validation, count, 32, with_answers=with_answers)

    def _kept(self, name: str, measure: Any) -> Any:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            self._write(path, measure())
        return json.loads(path.read_text())

    def _write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".writing")
        unfinished.write_text(json.dumps(content))
        unfinished.rename(path)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    options = _parser().parse_args(arguments)
    try:
        bench = Bench(options)
        found = {table: table_of(bench, table, options.plugin) for table in TABLES}
    except UserError as error:
        print(f"benchmarks.methods: {error}", file=sys.stderr)
        return 2
    made = environment(["python", "-m", "benchmarks.methods", *arguments])
    content = {"made": made} | {t: [asdict(entry) for entry in es] for t, es in found.items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content, indent=2) + "\n")
    options.output.with_suffix(".md").write_text(page(found, made, bench))
    draw({TABLES[table]: found[table] for table in TABLES}, options.output.with_suffix(".png"))
    print(f"Tables in {options.output.with_suffix('.md')}")
    return 0


def methods() -> list[str]:
    """The registered pruners that have nothing to train."""
    return [
        name for name in PRUNERS.names() if not any(True for _ in PRUNERS.get(name)(8).parameters())
    ]


def table_of(bench: Bench, table: str, plugins: Sequence[str]) -> list[Entry]:
    """All lines of one table, the full model's first, then by accuracy."""
    full = bench.entry(table, FULL, [Contestant(FULL)])
    found = [_method(bench, table, name) for name in methods()]
    blank = blank_image(bench.questions.prepare, bench.processor)
    found.append(bench.entry(table, blank.method, [blank]))
    total = bench.backbone.visual_tokens
    small = downsampled_input(round(SHARE * (total or 0)), bench.backbone, bench.processor)
    if small is not None:
        found.append(bench.entry(table, small.method, [small]))
    if table == "mean":
        found.append(_information_horizon(bench))
        named: dict[str, list[Contestant]] = {}
        for contestant in compared(plugins):
            named.setdefault(contestant.method, []).append(contestant)
        found += [bench.entry(table, name, seeds) for name, seeds in named.items()]
    assert full.row is not None
    entries = [full, *(_retained(entry, full.row.accuracy) for entry in found)]
    return sorted(entries, key=lambda entry: (entry.method != FULL, -_accuracy(entry)))


def _method(bench: Bench, table: str, name: str) -> Entry:
    schedule = bench.schedules[table]
    try:
        contestants = []
        for seed in range(SEEDS if _takes(name, "seed") else 1):
            stages = []
            for layer, ratio in zip(schedule.layers, schedule.ratios):
                arguments: dict[str, Any] = {"seed": seed} if _takes(name, "seed") else {}
                if _takes(name, "growth"):
                    arguments["growth"] = bench.growths()[str(layer)]
                stages.append(StageSpec(layer, ratio, name, arguments))
            contestants.append(Contestant(name, bench.plugin(stages)))
        return bench.entry(table, name, contestants)
    except UserError as error:
        return Entry(name, None, remark=f"cannot be used here: {error}")


def _information_horizon(bench: Bench) -> Entry:
    """DivPrune early, random in the middle, nothing past the horizon (arXiv 2512.07580 [note])."""
    first, end = bench.schedules["mean"].layers[0], bench.horizon()
    middle = (first + end) // 2
    # the budget is spent above the horizon: twice as many tokens before the middle as after
    spent = schedule_for(SHARE * bench.depth / end, (first, middle), end, decay=0.5)
    contestants = []
    for seed in range(SEEDS):
        stages = [
            StageSpec(first, spent.ratios[0], "divprune"),
            StageSpec(middle, spent.ratios[1], "random", {"seed": seed}),
        ]
        if end < bench.depth:
            stages.append(StageSpec(end, 0.0, "random"))
        contestants.append(Contestant("information_horizon", bench.plugin(stages)))
    entry = bench.entry("mean", "information_horizon", contestants)
    remark = f"divprune at {first}, random at {middle}, none from {end} on"
    return replace(entry, remark=remark)


def _takes(name: str, argument: str) -> bool:
    return argument in inspect.signature(PRUNERS.get(name)).parameters


def _accuracy(entry: Entry) -> float:
    return -1.0 if entry.row is None else entry.row.accuracy


def _retained(entry: Entry, full: float) -> Entry:
    if entry.row is None:
        return entry
    retained = round(entry.row.accuracy / full, 6) if full else 0.0
    return replace(entry, row=replace(entry.row, retained=retained))


def page(found: dict[str, list[Entry]], made: dict[str, str], bench: Bench) -> str:
    """The tables in Markdown, with what was measured on the way."""
    lines = ["# Methods at equal budgets on the embedded model", ""]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    schedule = bench.schedules["mean"]
    lines += [
        f"- questions: {bench.questions.count}, greedy generate, tokens physically dropped",
        f"- attention grows along the visual tokens as exp(g x), g by layer: {bench.growths()}",
        f"- information horizon: layer {bench.horizon()} of {bench.depth} (answer probability "
        f"left {TOLERANCE:g})",
    ]
    for table, title in TABLES.items():
        lines += ["", f"## {title}", ""]
        if table == "mean":
            kept = ", ".join(
                f"{ratio:.2%} from layer {layer}"
                for layer, ratio in zip(schedule.layers, schedule.ratios)
            )
            lines += [f"All methods at the same stages: {kept}.", ""]
        lines.append(tables.markdown(cells(found[table])))
    lines += [
        "",
        "Selection: the prefill's time less that of replaying the same choice, batch of 8, median "
        f"of {bench.rounds} interleaved rounds. ±: standard deviation over {SEEDS} seeds.",
    ]
    return "\n".join(lines) + "\n"


def cells(entries: Sequence[Entry]) -> tables.Cells:
    """One table, the columns of evaluation with selection time and remarks."""
    present = [entry for entry in entries if entry.row is not None]
    rows = tables.summary([entry.row for entry in present if entry.row is not None])
    lines = [[*rows[0], "selection ms", "remark"]]
    for line, entry in zip(rows[1:], present):
        taken = "" if entry.selection is None else f"{1000 * entry.selection:.1f}"
        lines.append([*line, taken, entry.remark])
    empty = [""] * len(rows[0][1:])
    lines += [[e.method, *empty, "", e.remark] for e in entries if e.row is None]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--plugin", nargs="+", default=[], metavar="NAME=DIR",
        help="exported plug-ins; equal names are seeds of one method")
    add("--runs", type=Path, default=Path("runs/benchmark/methods"), help="finished rows")
    add("--data", type=Path, default=Path("runs/data/test"), help="test questions")
    add("--validation", type=Path, default=Path("runs/data/validation"),
        help="questions that calibrate")
    add("--limit", type=int, default=600, help="test questions (default: 600)")
    add("--rounds", type=int, default=9, help="rounds of timing (default: 9)")
    add("--output", type=Path, default=RESULTS / "methods.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
