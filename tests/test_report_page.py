"""The page of a report, read by a parser: its structure, and that no string in it is markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from rcp.__main__ import main
from rcp.evaluation.report.page.page import ASSETS, LIBRARY, write_report
from tests.evaluation_files import answer, diagnosis, row, rows, write_evaluation

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror=alert(2)></script><!--<script>'
    '"><svg/onload=alert(3)> {{ 7*7 }} &lt; \u2028 \' " javascript:alert(4)'
)
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """``elements``: tag, attributes and text of each, in order of their starts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag, **attributes):
        return [
            (attrs, "".join(text))
            for found, attrs, text in self.elements
            if found == tag and attributes.items() <= attrs.items()
        ]


def made(folder, lines=None, about=None, measured=True):
    path = write_evaluation(folder, lines, about)
    (folder / "found.json").write_text(json.dumps(diagnosis()))
    return parsed(write_report([path], folder / "out", folder / "found.json" if measured else None))


def parsed(file):
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """Every string that comes from outside is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    lines = [
        answer(who, 0, n) | {"contestant": who if who == "full" else HOSTILE, "id": HOSTILE,
                             "question": f"{n}{HOSTILE}", "type": HOSTILE,
                             "references": [HOSTILE], "answer": f"{who}{HOSTILE}"}
        for who in ("full", "rcp") for n in range(3)
    ]
    path = write_evaluation(folder, lines, {"command": HOSTILE, "data": HOSTILE, "base": [HOSTILE],
                                            "versions": {HOSTILE: HOSTILE}})
    named = [row("full", 0.8, 16.0), row("rcp", 0.7, 5.5) | {"method": HOSTILE}]
    more = {"by_type": {HOSTILE: 0.5, "b": 0.1}, "metric": HOSTILE, "figures": {HOSTILE: 0.5},
            "unreadable": [HOSTILE]}
    path.write_text(json.dumps([one | more for one in named]))
    return parsed(write_report([path, path], folder / "out"))


def test_its_parts_are_there(page):
    assert [text for _, text in page.all("h1")] == ["Visual-token pruning, evaluated"]
    assert [text for _, text in page.all("h2")] == [
        "Summary", "Accuracy and cost", "Question types", "What survives", "Changed answers",
        "Layers", "Do it again", "Shift of answer rows",
    ]
    assert page.all("html", lang="en") and page.all("main") and page.all("nav")
    text = " ".join(text for _, text in page.all("body"))
    assert "29 of 30 samples: 9 of the\n9 whose answer rcp changes" in text
    assert "python evaluate.py --plugin runs/plugin --data 'some questions.json'" in text
    assert "torch" in text and "2.13.0" in text and "20 drawn from the others (seed 0)" in text
    changed = page.all("table", **{"class": "words"})[0][1]
    assert changed.index("sample-3") < changed.index("sample-7") < changed.index("sample-4")


def test_the_summary_is_that_of_the_terminal(page):
    summary = page.all("table")[0][1]
    for cell in ("72.0 ± 0.0", "90.0", "5.5", "0.550", "2.91x", "11.0"):
        assert cell in summary


def assert_well_made(page):
    """What can be said of a page without a browser."""
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) and not page.open
    for _, attrs, _ in page.elements:
        for reference in ("for", "aria-labelledby"):
            assert attrs.get(reference, ids[0]) in ids
        href = attrs.get("href", "#main")
        assert href == "data:," or href[1:] in ids
    labelled = {attrs["for"] for attrs, _ in page.all("label") if "for" in attrs}
    for attrs, _ in page.all("select") + page.all("input", type="range"):
        assert attrs["id"] in labelled
    for attrs, _ in page.all("canvas"):
        assert attrs["role"] == "img" and attrs["aria-label"]
    assert all("alt" in attrs for attrs, _ in page.all("img"))
    assert all(attrs["type"] == "button" for attrs, _ in page.all("button"))
    assert all(attrs["scope"] in ("col", "row") for attrs, _ in page.all("th"))


def test_it_is_well_made(page, hostile_page):
    assert_well_made(page)
    assert_well_made(hostile_page)


def test_charts_have_their_data(page):
    data = json.loads(page.all("script", id="report-data")[0][1])
    drawn = [(attrs["data-group"], attrs["data-chart"]) for attrs, _ in page.all("canvas")]
    assert len(drawn) == 9 and all(name in data[group]["charts"] for group, name in drawn)
    assert sum(len(group["charts"]) for group in data.values()) == 9
    assert data["e0"]["contestants"] == ["full", "rcp", "blank_image", "random"]
    assert data["shift"]["charts"]["w2"]["series"][1]["values"][1] == pytest.approx(0.15)


def assert_asks_for_nothing(page):
    """No address in markup, style or our scripts, and a policy that would stop one."""
    asking = {"src", "srcset", "href", "action", "formaction", "poster", "data", "background"}
    for tag, attrs, _ in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"} or "action" not in attrs
        assert not [name for name in attrs if name.startswith("on") or name == "style"]
        for name in asking & set(attrs):
            assert attrs[name].startswith(("data:image/webp;base64,", "#")) or (
                (tag, attrs[name]) == ("link", "data:,")
            )
    ((_, style),) = page.all("style")
    assert "url(" not in style and "@import" not in style and "//" not in style
    scripts = [text for attrs, text in page.all("script") if "type" not in attrs]
    assert len(scripts) == 4 and len(page.all("script")) == 5
    for script in scripts[1:]:
        assert re.findall(r"https?://[^\s\"']+", script) in ([], ["http://www.w3.org/2000/svg"])
        assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import|eval|innerHTML)\b", script)
    assert "sourceMappingURL" not in scripts[0]
    ((meta, _),) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(part.split(" ", 1) for part in meta["content"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hashed(style),
        "script-src": " ".join(map(hashed, scripts)),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    tags = [tag for tag, _, _ in page.elements]
    at = next(n for n, (_, attrs, _) in enumerate(page.elements) if "http-equiv" in attrs)
    assert at < tags.index("style")  # it holds from where it stands


def hashed(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_it_asks_for_nothing(page, hostile_page):
    assert_asks_for_nothing(page)
    assert_asks_for_nothing(hostile_page)


def test_what_comes_from_outside_is_text(hostile_page):
    said = HOSTILE.split()[0]
    places = {
        "option": 3, "caption": 2, "th": 8, "td": 6, "pre": 6, "dt": 3, "dd": 2, "p": 2, "label": 2,
        "summary": 2, "span": 10,
    }
    for tag, least in places.items():
        assert sum(said in text for _, text in hostile_page.all(tag)) >= least, tag
    data = json.loads(hostile_page.all("script", id="report-data")[0][1])
    assert data["e0"]["gallery"]["samples"][0]["question"] == f"0{HOSTILE}"
    assert data["e1"]["contestants"][1] == HOSTILE
    assert not hostile_page.all("svg") and "49" not in hostile_page.all("h1")[0][1]


def test_data_cannot_end_its_script(tmp_path):
    path = write_evaluation(tmp_path)
    path.write_text(json.dumps([rows()[0], rows()[1] | {"method": HOSTILE}]))
    text = write_report([path], tmp_path).read_text(encoding="utf-8")
    data = text.partition('id="report-data">')[2].partition("</script>")[0]
    assert not re.search("[<>&'\u2028]", data) and json.loads(data)


def test_half_a_surrogate_pair_does_not_stop_it(tmp_path):
    path = write_evaluation(tmp_path, about={"base": "a\ud800b"})
    assert "a?b" in write_report([path], tmp_path).read_text(encoding="utf-8")


def test_what_is_no_number_is_none(tmp_path):
    lines = [answer(who, 0, 0) | {"score": float("nan")} for who in ("full", "rcp")]
    path = write_evaluation(tmp_path, lines)
    data = json.loads(parsed(write_report([path], tmp_path)).all("script", id="report-data")[0][1])
    assert data["e0"]["gallery"]["samples"][0]["full_score"] is None


def test_rows_alone_make_a_smaller_page(tmp_path):
    path = write_evaluation(tmp_path)
    later = ("interval", "mcnemar_p", "figures", "metric", "tokens_per_layer", "unreadable",
             "kv_bytes_per_layer")
    path.write_text(json.dumps([{k: v for k, v in row.items() if k not in later}
                                for row in rows()]))
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    page = parsed(write_report([path], tmp_path / "out"))
    assert [text for _, text in page.all("h2")] == [
        "Summary", "Accuracy and cost", "Question types", "Do it again"
    ]
    assert "not known" in page.all("main")[0][1] and len(page.all("canvas")) == 4
    assert_well_made(page)
    assert_asks_for_nothing(page)


def test_the_full_model_alone(tmp_path):
    path = write_evaluation(tmp_path)
    path.write_text(json.dumps([rows()[0]]))
    assert_well_made(parsed(write_report([path], tmp_path / "out")))


def test_several_evaluations_share_a_page(tmp_path, capsys):
    paths = [str(write_evaluation(tmp_path / name)) for name in ("first", "second")]
    (tmp_path / "found.json").write_text(json.dumps(diagnosis()))
    out = tmp_path / "new" / "out"
    given = [*paths, "--output", str(out), "--diagnosis", str(tmp_path / "found.json")]
    assert main(["report", *given]) == 0
    assert capsys.readouterr().out == f"Written to {out / 'report.html'}\n"
    assert [file.name for file in out.iterdir()] == ["report.html"]
    page = parsed(out / "report.html")
    titles = [text for _, text in page.all("h2")]
    assert titles[0] == "All evaluations" and set(paths) < set(titles)
    assert titles.count("What survives") == 2 and titles[-1] == "Shift of answer rows"
    assert_well_made(page)


@pytest.mark.parametrize("fault", ["no rows", "no diagnosis", "a folder in its place", "no place"])
def test_what_cannot_be_is_one_line_and_no_file(tmp_path, capsys, fault):
    path = write_evaluation(tmp_path)
    out, found = tmp_path / "out", tmp_path / "found.json"
    found.write_text(json.dumps(diagnosis()))
    if fault == "no rows":
        path.write_text("[]")
    elif fault == "no diagnosis":
        found.write_text("[]")
    elif fault == "a folder in its place":
        (out / "report.html").mkdir(parents=True)
    else:
        out = path / "out"
    given = [str(path), "--output", str(out), "--diagnosis", str(found)]
    assert main(["report", *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m rcp report: ") and said.count("\n") == 1
    assert not (out / "report.html").is_file()


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrasts_are_those_that_wcag_asks_for_in_light_and_dark():
    """AA: 4.5 for text, 3 for what is drawn."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (ASSETS / "report.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", style)
    assert len(pairs) == 15
    for theme in (1, 2):
        colours = {pair[0]: pair[theme] for pair in pairs}
        for ground in ("paper", "raised"):
            for text in ("ink", "muted", "accent"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for kind in ("bad", "good"):
            assert contrast(colours[f"{kind}-ink"], colours[kind]) >= 4.5
        for number in range(5):
            assert contrast(colours[f"series-{number}"], colours["paper"]) >= 3


def test_the_library_is_the_one_whose_licence_lies_beside_it():
    """Chart.js 4.6.1, as its package has it."""
    library = (ASSETS / LIBRARY).read_bytes()
    assert hashlib.sha256(library).hexdigest() == (
        "87364cc2b2a76a6684929e7d6b80b18a897794db38400caff1fcf1791c6925d2"
    )
    assert "The MIT License" in (ASSETS / "chart.LICENSE.md").read_text()
