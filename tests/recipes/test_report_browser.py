"""The report in a real browser: it opens offline, everything in it works, and no text in it runs."""

from __future__ import annotations

import pytest
from browser import Browser, installed
from hostile import HOSTILE, poisoned
from report_fixture import METHODS, bare, comparison, samples, typed

from preflab.eval.diagnosis import DETECTORS
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


BOTTOM = "document.querySelector({!r}).getBoundingClientRect().bottom"


@pytest.mark.parametrize(("width", "height"), [(1400, 1000), (390, 844)])
def test_the_first_screen_has_the_finding_its_scope_and_the_figure(browser, report, width, height):
    browser.problems.clear()
    browser.open(report, width=width, height=height)
    assert texts(browser, "main h1") == ["ppo beats both others"]
    assert texts(browser, ".badges li") == ["methods, 3 replications"]
    assert browser.run(BOTTOM.format(".badges")) < browser.run(BOTTOM.format(".first .forest"))
    assert browser.run(BOTTOM.format(".first tfoot svg")) < height
    assert texts(browser, ".lead") == [comparison()["headline"]]
    assert browser.run(BOTTOM.format(".lead")) > browser.run(BOTTOM.format(".first .forest"))
    assert browser.problems == []


def test_marks_of_the_first_figure_lie_where_the_axis_says(page):
    middle = "(e => { const b = e.getBoundingClientRect(); return b.x + b.width / 2; })"
    ticks = page.run(
        f"[...document.querySelectorAll('.first > table .axis text')].map(e => [e.textContent, {middle}(e)])"
    )
    ticks = {float(text.replace("−", "-")): x for text, x in ticks}
    per_unit = ticks[1.0] - ticks[0.0]
    circles = page.run(f"[...document.querySelectorAll('.first > table circle')].map(e => {middle}(e))")
    said = [float(text.replace("−", "-")) for text in texts(page, ".first > table .number strong")]
    assert len(said) == len(circles) == 6
    assert circles == pytest.approx([ticks[0.0] + per_unit * value for value in said], abs=1.5)


def test_a_method_looks_the_same_in_legend_table_and_samples(page):
    marks = (
        "[...document.querySelectorAll('.chip')].map(e =>"
        " [e.textContent.trim(), e.querySelector('use').getAttribute('href'), getComputedStyle(e).color])"
    )
    looks = {}
    for name, mark, colour in page.run(marks):
        looks.setdefault(name, set()).add((mark, colour))
    assert set(looks) == {*METHODS}
    assert all(len(one) == 1 for one in looks.values()), looks
    assert len({mark for one in looks.values() for mark, _ in one}) == 4  # told apart without colour


def test_contents_lead_to_every_section(page):
    links = page.run("[...document.querySelectorAll('nav a')].map(a => a.hash)")
    assert len(links) == 15
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
    assert page.run("document.querySelector('#diagnosis details table').checkVisibility()") is False
    page.click("#diagnosis summary")
    assert len(texts(page, "#diagnosis details tbody tr")) == len(DETECTORS)
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


# What lies beyond the edge of the window, but for what lies in a box that scrolls and says so.
OUTSIDE = """
[...document.querySelectorAll('main *')].filter(e => {
  const box = e.closest('.scroll, pre');
  if (e.closest('.hidden, .skip') || box && (box.matches('pre') || box.classList.contains('wider'))) return false;
  const b = e.getBoundingClientRect();
  return b.width > 0 && (b.right > innerWidth + 1 || b.left < -1);
}).map(e => e.outerHTML.slice(0, 120))
"""
ON_PAPER = OUTSIDE.replace("'.scroll, pre'", "'none'")  # where nothing scrolls


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_scrolls_sideways_and_nothing_is_cut(browser, report, width, dark):
    browser.problems.clear()
    browser.open(report, width=width, height=844, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.settle()
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OUTSIDE) == []
    scrolling = browser.run("[...document.querySelectorAll('.wider')].map(e => e.getAttribute('aria-label'))")
    assert "Ranking table" not in scrolling
    assert ("Matrix of pairwise tests" in scrolling) is (width == 390)
    assert browser.problems == []


def test_paper_is_white_and_whole_with_everything_opened(browser, report):
    browser.problems.clear()
    browser.open(report, width=688, height=970, dark=True, media="print")  # A4 without its margins
    browser.run("dispatchEvent(new Event('beforeprint'))")
    browser.settle()
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    assert browser.run("document.documentElement.scrollWidth") <= 688
    assert browser.run(ON_PAPER) == []
    dark = browser.run(
        "[...document.querySelectorAll('*')].map(e => getComputedStyle(e).backgroundColor)"
        ".filter(c => !c.endsWith(', 0)')).map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b, 0) / 765)"
    )
    assert all(light > 0.85 for light in dark)
    assert browser.run("getComputedStyle(document.querySelector('h1')).color") == "rgb(31, 35, 40)"
    assert browser.run("document.querySelector('#terms').checkVisibility()") is True
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    assert browser.problems == []


@pytest.mark.parametrize(("width", "media"), [(390, ""), (1400, ""), (688, "print")])
def test_long_names_are_cut_nowhere_and_widen_nothing(browser, tmp_path, width, media):
    name = "-of-a-name-that-does-not-end" * 3
    answers = {method + name: rows for method, rows in samples(prompts=8).items()}
    browser.problems.clear()
    browser.open(
        write(tmp_path / "long.html", poisoned(comparison(), name), answers, figures=False), width=width, media=media
    )
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.settle()
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(ON_PAPER if media else OUTSIDE) == []
    assert browser.problems == []


def test_a_term_is_reached_by_keyboard_and_explained(page):
    page.run("document.querySelector('#ranking a.term').focus()")
    page.press("Enter")
    assert page.run("location.hash") == "#term-interval"
    assert 0 <= page.run("document.querySelector('#term-interval').getBoundingClientRect().top") < 900


def test_data_of_a_figure_are_downloaded_without_a_script_or_a_network(page):
    text = page.run("document.querySelector('.first a.csv').href")
    assert text.startswith("data:text/csv;charset=utf-8,first,second,measure,difference")
    assert page.run("document.querySelector('.first a.csv').download") == "differences.csv"


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
    brought = "img, iframe, object, main a:not(.term, .csv), [onerror], [onload]"
    assert browser.run(f"document.querySelectorAll('{brought}').length") == 0
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
    assert browser.run("document.querySelectorAll('section').length") == 6
    assert browser.run(SCROLLS) is False
    assert browser.problems == []
