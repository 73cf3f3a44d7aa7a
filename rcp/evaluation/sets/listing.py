"""The published sets as a page: docs/sets.md."""

from collections.abc import Sequence

from rcp.evaluation.sets.base import SETS, EvaluationSet

COMMAND = "python -m rcp sets --markdown"
ABOUT = f"""\
# Evaluation sets

`evaluate.py --data NAME --data-root DIR` asks a published set whose files lie in a folder, and
`--data hub:NAME` one that `datasets` fetches, which is the only door that touches the network.
Written by `{COMMAND}`.

In the folder are looked for, in this order:

- the set's own files, named below;
- `NAME.json` or `NAME.jsonl`: rows in the hub's columns, an `image` being a path in the folder of
  images below, where there is one, else in the folder itself (`--image-folder` says another);
- a copy of the hub's table: what `save_to_disk` wrote, or parquet files of the split, in the folder
  itself, in `data/`, or in a folder called as the configuration.

A row that lacks something, or whose reference the metric could not score, is in no score and is
listed; another number of rows than was published is warned of. Answers are greedy; prompts are
those of the source named, without a system prompt of the set's own. *Rows* are those of the
published split that ask something, which may ask several questions (RefCOCO's objects).
"""
HEADER = """\
| name | set | hub: data set, configuration, split | rows | metric, its first figure | new tokens |
|---|---|---|---|---|---|
"""
ASKED = """\
## How each is asked and read

"""


def all_sets() -> list[type[EvaluationSet]]:
    """The sets, by name."""
    return [SETS.get(name) for name in SETS.names()]


def as_markdown(sets: Sequence[type[EvaluationSet]]) -> str:
    """The text of docs/sets.md."""
    rows = "".join(f"{_row(one)}\n" for one in sets)
    return "\n".join([ABOUT, HEADER + rows, ASKED + "\n".join(map(_details, sets))])


def _row(one: type[EvaluationSet]) -> str:
    place = ", ".join(filter(None, (one.hub.name, one.hub.configuration, one.hub.split)))
    return (
        f"| `{one.name}` | {one.title} | {place}{' (not alone)' * bool(one.beside_hub)} | "
        f"{one.rows} | `{one.metric}`, `{one.primary}` | {one.max_new_tokens} |"
    )


def _details(one: type[EvaluationSet]) -> str:
    lines = [
        f"### `{one.name}`",
        "",
        "```text",
        one.prompt,
        "```",
        "",
        f"- Prompt: {one.prompt_source}.",
        f"- Answers: {one.parsing}.",
        f"- Local files: {_local(one)}.",
    ]
    if one.beside_hub:
        lines.append(f"- Not from the hub: {one.beside_hub}.")
    if one.unverified:
        lines.append(f"- Not verified: {one.unverified}.")
    return "\n".join(lines) + "\n"


def _local(one: type[EvaluationSet]) -> str:
    own = ", ".join(f"`{file}`" for file in (*one.files, f"{one.name}.json"))
    return f"{own}; images in `{one.image_folder}/`"
