"""The annotator's page in a real browser: keys, what they must not do, nothing runs, nothing is cut off."""

from __future__ import annotations

import json
import signal

import pytest
from annotation_site import Served, rows_in
from browser import Browser, installed
from hostile import HOSTILE

pytest.importorskip("starlette", reason="Starlette is not installed: pip install 'preflab[web]'")
pytest.importorskip("uvicorn", reason="Uvicorn is not installed: pip install 'preflab[web]'")
pytestmark = pytest.mark.skipif(
    installed() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

READY = "document.body.dataset.keys === 'ready'"
SCROLLS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(installed(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(browser, tmp_path):
    """The first page of a fresh file of verdicts; nothing may go wrong in it."""
    server = Served(tmp_path)
    browser.problems.clear()
    browser.open(server.url)
    browser.server, browser.verdicts = server, tmp_path / "verdicts.jsonl"
    yield browser
    server.end(signal.SIGINT)
    assert browser.problems == []


def begin(page, name="Ada"):
    """Type a name, and wait for the first pair."""
    page.wait("document.activeElement.id === 'annotator'")
    page.type(name)
    page.press("Enter", away=True)
    page.wait(READY)


def judge(page, act):
    """Do something that leads to another page, and return the texts that were judged."""
    before = page.run("performance.timeOrigin")
    seen = page.run("[...document.querySelectorAll('.text')].map(e => e.textContent)")
    act()
    page.wait(f"performance.timeOrigin !== {before} && {READY}")
    return seen


def test_by_keyboard_alone(page):
    begin(page)
    seen = [
        judge(page, lambda key=key: page.press(key, away=True))
        for key in ("1", "2", "t", "ArrowLeft", "ArrowRight", "s")
    ]
    rows = rows_in(page.verdicts)
    assert len(rows) == 5
    for (prompt, left, right), key, row in zip(seen, ("1", "2", "t", "1", "2"), rows, strict=False):
        assert (row["prompt"], row["annotator"]) == (prompt, "Ada")
        better = {"1": left, "2": right}.get(key)
        assert row["verdict"] == ("tie" if better is None else "first" if better == row["first"] else "second")
    judge(page, lambda: page.press("u", away=True))
    assert judge(page, lambda: page.press("u", away=True)) == seen[5], "what was skipped is back"
    assert len(rows_in(page.verdicts)) == 4
    assert judge(page, lambda: page.press("2", away=True)) == seen[4]
    assert page.run("document.querySelector('.progress span').textContent") == "5 of 8 judged"
    assert "5 of 8" in page.run("document.title")
    for _ in range(3):
        judge(page, lambda: page.press("t", away=True))
    assert page.run("document.querySelector('h1').textContent") == "All 8 pairs are judged. Thank you."


def test_by_tab_and_enter_and_by_mouse(page):
    begin(page)
    judge(page, lambda: page.click("button[value='2']", away=True))
    page.run("document.querySelector('.top a').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.textContent.trim()").startswith("1 Answer 1")
    judge(page, lambda: page.press("Enter", away=True))
    assert [row["shown"][row_place] for row, row_place in zip(rows_in(page.verdicts), "21", strict=True)] == [
        row["verdict"] for row in rows_in(page.verdicts)
    ]


def test_keys_that_are_no_verdict(page):
    begin(page)
    for key in ("3", "x", "q"):
        page.press(key)
    page.press("1", again=True)
    page.click("summary")
    page.click("#note")
    page.type("it is ")
    for key in ("1", "t", "Enter"):
        page.press(key)
    assert rows_in(page.verdicts) == []
    assert page.run("document.querySelector('#note').value") == "it is 1t\n"
    judge(page, lambda: page.click("button[value='t']", away=True))
    assert [row["note"] for row in rows_in(page.verdicts)] == ["it is 1t"]


def test_keys_can_be_switched_off_for_good(page):
    begin(page)
    page.click("#keys input")
    judge(page, lambda: page.click("button[value='t']", away=True))
    page.press("1")
    assert len(rows_in(page.verdicts)) == 1
    page.click("#keys input")
    judge(page, lambda: page.press("1", away=True))
    assert len(rows_in(page.verdicts)) == 2


def test_of_two_buttons_struck_at_once_the_first_counts(page):
    begin(page)
    judge(page, lambda: page.run("for (const value of 't1') document.querySelector(`[value='${value}']`).click()"))
    assert [row["verdict"] for row in rows_in(page.verdicts)] == ["tie"]
    assert page.run("document.querySelector('.said')") is None


def test_back_in_the_browser_shows_what_is_open(page):
    begin(page)
    judge(page, lambda: page.press("1", away=True))
    second = page.run("document.querySelector('.prompt .text').textContent")
    judge(page, lambda: page.run("history.back()"))
    page.wait(f"document.querySelector('.prompt .text')?.textContent === {json.dumps(second)}")
    judge(page, lambda: page.press("1", away=True))
    assert len(rows_in(page.verdicts)) == 2
    judge(page, lambda: page.run("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"))


@pytest.fixture
def hostile(browser, tmp_path):
    """The address of a pair whose every text tries to break out, and is long."""
    text = "\n".join(HOSTILE.values())
    long = f"{'wide' * 200}\n\u05d0\u05d1 {'A line that goes on. ' * 300}"
    answers = [[{"prompt": f"p {text}", "response": f"{own} {text}\n{long}"}] for own in ("one", "two")]
    server = Served(tmp_path, "--annotator", "Ada", answers=answers)
    browser.problems.clear()
    yield server.url
    server.end()
    assert browser.problems == []


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_that_break_out_of_pages_do_not_break_out_of_this_one(width, dark, browser, hostile):
    browser.open(hostile, width=width, dark=dark)
    browser.wait(READY)
    assert browser.run("window.canary === undefined && document.querySelectorAll('img, svg, .text *').length === 0")
    assert browser.run(SCROLLS) is False
    assert browser.run("[...document.querySelectorAll('.text')].every(e => e.scrollWidth <= e.clientWidth)"), "cut off"
    boxes = browser.run("[...document.querySelectorAll('.answer')].map(e => e.getBoundingClientRect().toJSON())")
    beside = boxes[0]["right"] <= boxes[1]["left"]
    assert beside == (width == 1400)
    assert beside or boxes[0]["bottom"] <= boxes[1]["top"]
    for where in ("0", "document.body.scrollHeight"):
        browser.run(f"scrollTo(0, {where})")
        browser.settle()
        inside = "box => box.top >= 0 && box.bottom <= innerHeight && box.width > 40"
        boxes = "[...document.querySelectorAll('.choices button')].map(e => e.getBoundingClientRect())"
        assert browser.run(f"{boxes}.every({inside})"), where
    colours = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (sum(browser.run(colours)) < 200) == dark
