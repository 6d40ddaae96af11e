"""The page in a real browser: no errors, no requests, nothing to scroll sideways on a phone, everything has words."""

from __future__ import annotations

import pytest

from slimbind.evaluate.report import write_html

from . import made
from .chromium import Chromium, find

PROGRAM = find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium (apt-get install chromium)")

WIDER = """[...document.querySelectorAll('body *')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.right > innerWidth + 1 && !one.closest('.scroll') && getComputedStyle(one).position !== 'absolute';
}).map(one => one.outerHTML.slice(0, 200))"""
WORDLESS = """[...document.querySelectorAll('img, svg')].filter(one =>
    !(one.getAttribute('alt') || one.getAttribute('aria-label'))).length"""
CONTRAST = """(() => {
    const style = getComputedStyle(document.body);
    const light = text => {
        const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [a, b] = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
    return [(a + 0.05) / (b + 0.05), light(style.backgroundColor)];
})()"""


@pytest.fixture(scope="module")
def browser():
    chromium = Chromium(PROGRAM)
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write_html(path, made.everything(), title="Everything <b>")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_is_readable_everywhere(browser, report, width, dark):
    browser.open(report, width=width, dark=dark)
    assert browser.complaints == []
    assert [asked for asked in browser.requests if not asked.startswith("data:")] == [report.as_uri()]
    assert browser.ask("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.ask(WIDER) == []
    assert browser.ask(WORDLESS) == 0
    contrast, background = browser.ask(CONTRAST)
    assert contrast > 7 and (background < 0.05) == dark
    assert browser.ask("parseFloat(getComputedStyle(document.body).fontSize)") >= 16


def test_wide_tables_scroll_in_their_own_box(browser, report):
    browser.open(report, width=360)
    boxes = browser.ask("[...document.querySelectorAll('.scroll')].map(one => [one.clientWidth, one.scrollWidth])")
    assert any(inside > outside for outside, inside in boxes)
    assert all(outside <= 360 for outside, _ in boxes)


def test_links_of_the_contents_lead_to_their_sections(browser, report):
    browser.open(report, width=1280)
    dead = "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.getAttribute('href'))).length"
    assert browser.ask(dead) == 0 and browser.ask("document.querySelectorAll('nav a').length") > 5


def test_a_page_prints(browser, report):
    browser.open(report, width=1280, dark=True)
    assert browser.printed().startswith(b"%PDF-")


def test_hostile_text_runs_nothing(browser, tmp_path):
    from slimbind.evaluate.record import Estimate, Record

    bad = "\"'></td><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    path = tmp_path / "hostile.html"
    records = [
        Record("zero-shot", bad, bad, {bad: bad}, {bad: Estimate(1.0)}, {"classes": [bad], "confusion": [[1]]}),
        Record("similarity", bad, bad, details={"rows": [bad], "columns": [bad], "scores": [[1.0]]}),
    ]
    write_html(path, records, title="quiet")
    browser.open(path, width=360)
    assert browser.ask("document.title") == "quiet" and browser.complaints == []
    assert browser.ask("document.querySelectorAll('script, img').length") == 0
    assert len(browser.requests) == 1
