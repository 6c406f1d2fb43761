"""The report in a real browser: it opens offline, everything in it works, and no text in it runs."""

from __future__ import annotations

import pytest
from browser import Browser, installed
from hostile import HOSTILE, poisoned
from report_fixture import METHODS, bare, comparison, samples, typed

from preflab.eval.report.drawings import plots
from preflab.eval.report.page import render
from preflab.eval.report.text import clean

pytestmark = pytest.mark.skipif(
    installed() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

FIGURED = ("end", "image")  # drawing takes longest
# A page wider than its window would scroll sideways; boxes that scroll within themselves do not count.
SCROLLS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(installed(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def write(path, compared, answers, figures=True):
    shown = clean(typed(compared))
    path.write_text(render(shown, answers, plots(shown) if figures else []), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "report.html", comparison(), samples(prompts=42))


@pytest.fixture
def page(browser, report):
    browser.problems.clear()
    browser.open(report)
    yield browser
    assert browser.problems == []


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent.trim())")


def test_the_verdict_is_the_first_thing_read(page):
    assert page.run("document.querySelector('main h1').textContent") == comparison()["headline"]
    assert page.run("document.querySelector('h1').getBoundingClientRect().bottom < innerHeight") is True


def test_contents_lead_to_every_section(page):
    links = page.run("[...document.querySelectorAll('nav a')].map(a => a.hash)")
    assert len(links) == 14
    for link in (links[4], links[-3]):
        page.click(f"nav a[href='{link}']")
        assert page.run("location.hash") == link
        assert page.run(f"Math.abs(document.querySelector('{link}').getBoundingClientRect().top) < 100"), link
        assert page.run("document.querySelector('nav a[aria-current]').hash") == link


def test_contents_stay_in_sight_on_a_desktop(page):
    page.click("nav a[href='#samples']")
    assert page.run("document.querySelector('nav ul').getBoundingClientRect().top") >= 0


def test_a_heading_sorts_its_table(page):
    names = "#ranking tbody th"
    assert texts(page, names) == ["ppo", "dpo", "ipo", "sft"]
    page.click("#ranking thead th:nth-child(9) button")  # KL
    assert texts(page, names) == ["ppo", "dpo", "ipo", "sft"]
    page.click("#ranking thead th:nth-child(9) button")
    assert texts(page, names) == ["sft", "ipo", "dpo", "ppo"]
    assert page.run("document.querySelector('#ranking [aria-sort]').ariaSort") == "ascending"
    page.click("#ranking thead th:nth-child(5) button")  # win rate, which the baseline has not: last either way
    assert texts(page, names)[-1] == "sft"
    page.click("#ranking thead th:nth-child(5) button")
    assert texts(page, names) == ["ipo", "dpo", "ppo", "sft"]


def test_what_is_folded_away_opens(page):
    for section, inside in (("#frontier", "table"), ("#training", "figure svg"), ("#costs", "table")):
        inside = f"{section} details {inside}"
        assert page.run(f"document.querySelector({inside!r}).checkVisibility()") is False, section
        page.click(f"{section} summary")
        assert page.run(f"document.querySelector({inside!r}).checkVisibility()") is True, section
    assert "clip fraction" in texts(page, "#training details h3")
    page.click("#frontier details th:nth-child(4) button")  # the difference at equal KL
    assert texts(page, "#frontier details:first-of-type tbody td:nth-child(2)") == ["ipo", "ppo"]


def test_pager(page):
    assert texts(page, "#place") == ["1 of 9 pages, 42 prompts"]
    first = texts(page, "#cards .prompt")
    assert len(first) == 5
    assert page.run("document.querySelector('#previous').disabled") is True
    page.click("#next")
    assert texts(page, "#place") == ["2 of 9 pages, 42 prompts"]
    assert not set(first) & set(texts(page, "#cards .prompt"))
    for _ in range(7):
        page.click("#next")
    assert len(texts(page, "#cards .prompt")) == 2
    assert page.run("document.querySelector('#next').disabled") is True
    page.click("#previous")
    assert texts(page, "#place") == ["8 of 9 pages, 42 prompts"]


def test_biggest_disagreements_come_first(page):
    apart = [float(text.split()[-2]) for text in texts(page, "#cards > .card > header")]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 2


def test_samples_are_filtered_by_text(page):
    page.click("#search")
    page.type("(No. 7)")
    assert texts(page, "#place") == ["1 prompt"]
    assert texts(page, "#cards .prompt") == ["Write a short review of the night train. (No. 7)"]
    assert texts(page, "#cards .answer .name") == list(METHODS)
    page.type(" nowhere")
    assert texts(page, "#cards") == ["No sample fits these filters."]


def test_samples_are_filtered_by_method_outcome_and_seed(page):
    rows = samples(prompts=42)
    page.choose("#seed", "2")
    page.choose("#method", "ppo")
    counts = {}
    for outcome in ("win", "tie", "loss"):
        page.choose("#outcome", outcome)
        counts[outcome] = int(texts(page, "#place")[0].rpartition("pages, ")[2].split()[0])
    pairs = list(zip(rows["ppo"][2], rows["sft"][0], strict=True))
    wins = sum(round(a["gold"], 3) > round(b["gold"], 3) for a, b in pairs)
    assert counts == {"win": wins, "tie": 0, "loss": 42 - wins}
    page.choose("#outcome", "any")
    page.choose("#order", "worst")
    worst = min(rows["ppo"][2], key=lambda row: row["gold"])
    assert texts(page, "#cards .prompt")[0] == worst["prompt"]
    assert worst["response"] in texts(page, "#cards .card:first-child .response")
    page.click("#shown input[value=dpo]")
    assert set(texts(page, "#cards .answer .name")) == {"sft", "ipo", "ppo"}


def test_everything_is_reached_by_keyboard(page):
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Tab")
    assert page.run("document.activeElement.hash") == "#verdict"
    page.run("document.querySelector('#ranking thead th:nth-child(9) button').focus()")
    page.press("Enter")
    assert page.run("document.querySelectorAll('#ranking [aria-sort=descending]').length") == 1
    page.run("document.querySelector('#next').focus()")
    page.press("Enter")
    assert texts(page, "#place")[0].startswith("2 of 9")
    assert page.run("document.activeElement.id") == "next"


def test_figures_are_readable_in_the_dark(browser, report):
    browser.problems.clear()
    seen = {}
    for dark in (False, True):
        browser.open(report, dark=dark)
        ink, paper = browser.run(
            "[getComputedStyle(document.querySelector('#frontier svg text')).fill,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        lights = [sum(map(int, colour[4:-1].split(","))) / 765 for colour in (ink, paper)]
        assert abs(lights[0] - lights[1]) > 0.35
        seen[dark] = lights[1]
    assert seen[False] > 0.9
    assert seen[True] < 0.2
    assert browser.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_scrolls_down_alone(browser, report, dark):
    browser.problems.clear()
    browser.open(report, width=390, height=844, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.settle()
    assert browser.run(SCROLLS) is False
    assert browser.run("document.querySelector('#ranking .scroll').scrollWidth > 390") is True
    assert browser.run("document.querySelector('h1').getBoundingClientRect().right <= 390") is True
    assert browser.problems == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_text_of_the_report_runs(browser, tmp_path, kind):
    text = HOSTILE[kind]
    answers = {name + text: poisoned(seeds, text) for name, seeds in samples(prompts=8).items()}
    browser.problems.clear()
    browser.open(write(tmp_path / "report.html", poisoned(comparison(), text), answers, figures=kind in FIGURED))
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.click("#next")
    browser.choose("#outcome", "win")
    assert browser.run("typeof window.canary") == "undefined"
    assert browser.run("document.scripts.length") == 2
    assert browser.run("document.querySelectorAll('img, iframe, object, main a, [onerror], [onload]').length") == 0
    assert len(texts(browser, "#shown .name")) == 4
    assert browser.problems == []


def test_a_huge_response_opens_and_unfolds(browser, tmp_path):
    rows = [{"prompt": "p", "response": "wide" * 250_000, "gold": 1.0, "length": 5, "ended": True}]
    browser.problems.clear()
    browser.open(write(tmp_path / "report.html", comparison(), {"dpo": {0: rows}}, figures=False), width=390)
    folded = browser.run("document.querySelector('.response').getBoundingClientRect().height")
    browser.click(".more")
    assert browser.run("document.querySelector('.response').getBoundingClientRect().height") > 2 * folded
    assert browser.run(SCROLLS) is False
    assert browser.problems == []


def test_a_comparison_of_little_opens(browser, tmp_path):
    browser.problems.clear()
    browser.open(write(tmp_path / "bare.html", bare(), {}), width=390)
    assert browser.run("document.querySelectorAll('section').length") == 5
    assert browser.run(SCROLLS) is False
    assert browser.problems == []
