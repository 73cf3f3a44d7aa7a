"""A report in a real browser; without what `sh tests/browser_env.sh` brings, all is skipped."""

import json
import shutil

import pytest

from rcp.evaluation.report.page.page import write_report
from tests.documents import ROOT
from tests.evaluation_files import answer, diagnosis, row, write_evaluation
from tests.test_report_page import HOSTILE

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = ROOT / "runs" / "browser" / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = write_evaluation(folder)
    (folder / "found.json").write_text(json.dumps(diagnosis()))
    return write_report([path], folder / "out", folder / "found.json")


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    more = {"id": HOSTILE, "question": HOSTILE, "type": HOSTILE, "references": [HOSTILE]}
    lines = [
        answer(who, 0, n) | more | {"contestant": who if who == "full" else HOSTILE,
                                    "answer": f"{who}{HOSTILE}"}
        for who in ("full", "rcp") for n in range(3)
    ]
    path = write_evaluation(folder, lines, {"command": HOSTILE})
    named = [row("full", 0.8, 16.0), row("rcp", 0.7, 5.5) | {"method": HOSTILE}]
    path.write_text(json.dumps([one | {"by_type": {HOSTILE: 0.5, "b": 0.1}} for one in named]))
    return write_report([path], folder / "out")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page that is open, with all that it asked for and complained of."""

    def __init__(self, browser, file, width=1200, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        network = self.context.new_cdp_session(self.page)
        network.send("Network.enable")
        network.on("Network.requestWillBeSent", lambda event: self.asked.append(
            event["request"]["url"]
        ))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(file.as_uri())
        self.file = file

    def part(self, name):
        return self.page.locator(f'.explorer [data-part="{name}"]').first

    def background(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")

    def drawn(self):
        return self.page.evaluate("[...document.querySelectorAll('canvas')].map(c=>c.toDataURL())")

    def width(self):
        return self.page.evaluate("document.documentElement.scrollWidth")


@pytest.fixture
def visit(browser):
    """Opens a file; at the end nothing else was asked for, and nothing complained of."""
    visits = []

    def open_(*arguments, **named):
        visits.append(Visit(browser, *arguments, **named))
        return visits[-1]

    yield open_
    for one in visits:
        one.page.wait_for_timeout(100)
        one.context.close()
        asked = [url for url in one.asked if not url.startswith("data:")]
        assert asked == [one.file.as_uri()] and one.complaints == []


def test_all_charts_are_drawn(report, visit):
    opened = visit(report)
    drawn = opened.drawn()
    blank = opened.page.evaluate("document.createElement('canvas').toDataURL()")
    assert len(drawn) == len(set(drawn)) == 9 and blank not in drawn


def test_strings_from_outside_run_nothing(hostile_report, visit):
    opened = visit(hostile_report)
    for card in opened.page.locator(".cards button").all():
        card.click()
    assert HOSTILE.split()[0] in opened.part("facts").inner_text()
    assert opened.page.locator(".facts img, .facts script, .cards svg").count() == 0


def test_the_policy_stops_a_request(browser, report):
    opened = Visit(browser, report)
    stopped = opened.page.evaluate(
        """async () => {
            const heard = new Promise((done) => document.addEventListener(
                "securitypolicyviolation", (event) => done(event.violatedDirective)));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            return heard;
        }"""
    )
    assert stopped == "connect-src"
    opened.context.close()


def test_the_slider_goes_over_stages_by_keyboard(report, visit):
    opened = visit(report)
    slider, said = opened.part("stage"), opened.part("alive")
    assert said.inner_text() == "From layer 3 on: 3 of 16 visual tokens"
    slider.focus()
    opened.page.keyboard.press("ArrowLeft")
    assert said.inner_text() == "From layer 1 on: 8 of 16 visual tokens"
    assert slider.get_attribute("aria-valuetext") == said.inner_text()
    path = opened.page.locator(".picture mask path")
    assert path.get_attribute("d").count("M") == 8
    assert path.get_attribute("d").startswith("M-1 -1h0.5v0.5h-0.5z")  # token 0, above to the left
    opened.page.keyboard.press("Home")
    assert said.inner_text() == "Before any stage: all 16 visual tokens" and path.count() == 0


def test_filters_work_by_keyboard(report, visit):
    opened = visit(report)
    count, page = opened.part("count"), opened.page
    assert count.inner_text() == "29 of 29 samples"
    page.locator('[data-filter="outcome"]').focus()
    page.keyboard.press("ArrowDown")
    assert count.inner_text() == "3 of 29 samples"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")  # counting: of even samples, and those that are lost are odd
    assert count.inner_text() == "0 of 29 samples" and not opened.part("viewer").is_visible()
    page.keyboard.press("ArrowDown")
    assert count.inner_text() == "3 of 29 samples" and opened.part("viewer").is_visible()
    page.locator('[data-filter="contestant"]').focus()
    page.keyboard.press("ArrowDown")
    assert "blank_image" in opened.part("facts").inner_text()
    assert opened.part("alive").inner_text().endswith("(nothing is dropped)")


def test_samples_are_chosen_by_keyboard(report, visit):
    opened = visit(report)
    page = opened.page
    page.locator(".cards button").nth(3).focus()
    page.keyboard.press("Enter")
    assert opened.part("title").inner_text() == "Sample sample-7"
    told = opened.part("facts").inner_text()
    assert "Red. (score 1)" in told and "red / crimson" in told
    assert page.locator('.cards [aria-pressed="true"]').count() == 1
    page.locator('[data-step="-1"]').focus()
    page.keyboard.press("Space")
    assert opened.part("title").inner_text() == "Sample sample-23"


def test_everything_is_reached_by_tab_and_seen_to_be(report, visit):
    opened = visit(report)
    page, reached = opened.page, set()
    for _ in range(90):
        page.keyboard.press("Tab")
        tag, outline = page.evaluate(
            "[document.activeElement.tagName + (document.activeElement.type || ''),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert tag.startswith("BODY") or outline != "none", tag
        reached.add(tag)
    assert reached >= {"A", "SELECTselect-one", "INPUTcheckbox", "INPUTrange", "BUTTONbutton",
                       "SUMMARY", "DIV", "PRE"}


def test_contestants_leave_the_charts(report, visit):
    opened = visit(report)
    before = opened.drawn()
    opened.page.locator('[data-contestant="random"]').focus()
    opened.page.keyboard.press("Space")
    after = opened.drawn()
    assert [one != other for one, other in zip(before, after)] == [True] * 6 + [False] * 3
    opened.page.keyboard.press("Space")
    assert opened.drawn() == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_telephone(report, hostile_report, visit, scheme):
    for file in (report, hostile_report):
        opened = visit(file, width=360, scheme=scheme)
        opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert opened.width() == 360


def test_the_theme_is_the_systems_until_one_is_chosen(report, visit):
    white, dark = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
    opened = visit(report, scheme="dark")
    assert opened.background() == dark
    drawn = opened.drawn()
    opened.page.locator("#theme").focus()
    opened.page.keyboard.press("ArrowDown")
    assert opened.background() == white and not set(drawn) & set(opened.drawn())
    opened.page.keyboard.press("Home")
    assert opened.background() == dark and opened.drawn() == drawn
    opened.page.emulate_media(color_scheme="light")
    opened.page.evaluate("new Promise(requestAnimationFrame)")  # by then the page has heard of it
    assert opened.background() == white and not set(drawn) & set(opened.drawn())


def test_paper_is_white_and_whole(report, visit, tmp_path):
    opened = visit(report, scheme="dark")
    drawn = opened.drawn()
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not set(drawn) & set(opened.drawn())
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.drawn() == drawn
    opened.page.emulate_media(media="print")
    assert opened.background() == "rgb(255, 255, 255)"
    hidden = "nav, .theme, .filters, .stage input, .steps, .legend input"
    assert not [one for one in opened.page.locator(hidden).all() if one.is_visible()]
    cards = opened.page.locator(".cards")
    assert cards.evaluate("one => one.scrollHeight <= one.clientHeight")
    opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") > 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_nothing(report, visit, scheme, width):
    if not AXE.exists():
        pytest.skip("no axe-core; tests/browser_env.sh brings it where there is npm")
    opened = visit(report, width=width, scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    opened.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = opened.page.evaluate("axe.run()")["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


def test_without_scripts_the_tables_remain(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("noscript").inner_text().startswith("Charts and the slider")
    assert page.locator("table.words tbody tr").first.is_visible()
    assert page.locator(".cards li").count() == 29
    context.close()
