"""The page: everything in one file, and a policy that forbids it to ask for more."""

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rcp.atomic_write import atomic
from rcp.evaluation.options import REPORT
from rcp.evaluation.report import shift
from rcp.evaluation.report.page import charts
from rcp.evaluation.report.page.results import read_results
from rcp.evaluation.report.page.sections import Sections, across, sections

ASSETS = Path(__file__).parents[1] / "assets"
LICENCE, LIBRARY = "chart.LICENSE.md", "chart.umd.min.js"
SCRIPTS = ("theme.js", "charts.js", "samples.js")
"""Ours, in the order in which they run, behind the library."""


def write_report(paths: Sequence[Path], folder: Path, diagnosis: Path | None = None) -> Path:
    """Write ``report.html`` in ``folder`` about the rows in ``paths``, and return its path.

    ``diagnosis``: what `python -m rcp diagnose` wrote. Raises ``UserError`` for files that are
    damaged or something else; then nothing is written.
    """
    found = [sections(read_results(path)) for path in paths]
    measured = None if diagnosis is None else shift.read_diagnosis(diagnosis)
    page = rendered(found, measured)
    with atomic(folder / REPORT) as unfinished:
        unfinished.write_text(page, encoding="utf-8", errors="replace")  # half of a surrogate pair
    return folder / REPORT


def rendered(found: Sequence[Sections], diagnosis: dict[str, Any] | None) -> str:
    """The whole page as HTML."""
    scripts = [_library(), *(_asset(name) for name in SCRIPTS)]
    style = _asset("report.css")
    environment = Environment(
        loader=PackageLoader("rcp.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("report.html").render(
        policy=policy(scripts, style),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        evaluations=found,
        across=across([one.results for one in found]),
        diagnosis=diagnosis and _shown(diagnosis),
        data=_finite(_data(found, diagnosis)),
    )


def policy(scripts: Sequence[str], style: str) -> str:
    """A Content-Security-Policy under which these run, and nothing is asked for by anyone."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hashed(style)}",
            f"script-src {' '.join(map(_hashed, scripts))}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _data(found: Sequence[Sections], diagnosis: dict[str, Any] | None) -> dict[str, Any]:
    """What the scripts draw, by the names of the groups that the template puts it in."""
    groups: dict[str, Any] = {
        f"e{number}": {
            "contestants": [row.method for row in one.results.rows],
            "charts": {f"cost-{at}": chart for at, chart in enumerate(one.costs)} | one.charts,
            "gallery": one.gallery and {
                name: value for name, value in one.gallery.items() if name != "images"
            },
        }
        for number, one in enumerate(found)
    }
    if diagnosis is not None:
        groups["shift"] = {"contestants": [], "charts": _shift_charts(diagnosis)}
    return groups


def _shown(diagnosis: dict[str, Any]) -> dict[str, Any]:
    tables = {"layers": shift.by_layer(diagnosis), "stages": shift.by_stage(diagnosis)}
    return diagnosis | tables


def _shift_charts(diagnosis: dict[str, Any]) -> dict[str, charts.Chart]:
    return {
        gap: charts.over_layers(
            gap,
            {
                f"{when} repair": [line[when][gap] for line in diagnosis["layers"]]
                for when in ("before", "after")
            },
            logarithmic=True,
        )
        for gap in shift.GAPS
    }


def _finite(value: Any) -> Any:
    """``value`` with None for what is no number: Python would write a NaN that no script reads."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _library() -> str:
    """The charting library behind its licence, and without the name of a file to ask for."""
    script = re.sub(r"\n//# sourceMappingURL=.*\s*\Z", "\n", _asset(LIBRARY))
    return f"/*\n{_asset(LICENCE)}*/\n{script}"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """``text`` as a policy names it: the text between the tags, whole."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
