"""The tables of the method comparison in Markdown."""

from collections.abc import Sequence

from benchmarks.methods_bench import TOLERANCE, Bench, Entry
from rcp.evaluation.report import tables


def page(
    found: dict[str, list[Entry]],
    titles: dict[str, str],
    made: dict[str, str],
    bench: Bench,
    seeds: int,
) -> str:
    """The tables ``found``, by name, with what was measured on the way."""
    lines = ["# Methods at equal budgets on the embedded model", ""]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    schedule = bench.schedules["mean"]
    lines += [
        f"- questions: {bench.questions.count}, greedy generate, tokens physically dropped",
        f"- attention grows along the visual tokens as exp(g x), g by layer: {bench.growths()}",
        f"- information horizon: layer {bench.horizon()} of {bench.depth} (answer probability "
        f"left {TOLERANCE:g})",
    ]
    for table, title in titles.items():
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
        f"of {bench.rounds} interleaved rounds. ±: standard deviation over {seeds} seeds.",
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
