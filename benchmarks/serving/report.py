"""The results as a page."""

from typing import Any


def page(report: dict[str, Any]) -> str:
    """Markdown: what was measured with, a table of cases, a table of load."""
    lines = ["# Served by vLLM", ""]
    lines += [f"- {name}: {report[name]}" for name in ("date", "versions", "hardware")]
    lines += [f"- {part} by {command}" for part, command in report["made by"].items()]
    parts = {name: rows for name, rows in report.items() if isinstance(rows, list)}
    if parts:
        lines += ["", "Answers of vLLM that are those of transformers with the same plug-in "
                  "attached, token for token, greedy, fp32, on the embedded model; prompts filled "
                  "in chunks of 64 tokens, prefix caching on. `trained` is the first stage of "
                  "the quickstart's plug-in; parts named after a family are of tiny random models, "
                  "images of five sizes, and `question_attention`.", ""]
        lines += [f"| case | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
        names = list(dict.fromkeys(row["case"] for rows in parts.values() for row in rows))
        for name in names:
            cells = [_cell(rows, name) for rows in parts.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if "load" in report:
        lines += ["", *_load(report["load"])]
    return "\n".join(lines) + "\n"


def _cell(rows: list[dict[str, Any]], name: str) -> str:
    return next((f"{row['same']} / {row['of']}" for row in rows if row["case"] == name), "")


def _load(load: dict[str, Any]) -> list[str]:
    lines = [load["about"], "",
             "| budget | requests/s | first token, median | 95 % | 99 % | accuracy |",
             "|---|---|---|---|---|---|"]
    for row in load["rows"]:
        times = " | ".join(f"{row[name]:.0f} ms" for name in ("p50", "p95", "p99"))
        own = f"{row['budget']} | {row['requests_per_second']:.1f} | {times}"
        lines.append(f"| {own} | {row['accuracy']:.1%} |")
    return [*lines, "", "![requests a second, first token and accuracy](serving.png)", "",
            load["client"]]
