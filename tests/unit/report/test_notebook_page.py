"""A comparison in a notebook's cell: all that it says, nothing that runs, loads or is taken for markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hostile import HOSTILE, poisoned
from report_fixture import METHODS, bare, comparison, typed

from preflab.eval.comparison.sentences import about
from preflab.eval.report.notebook import MOST_PAIRS, comparison_html, differences, lines_html
from preflab.eval.report.text import visible

ELEMENTS = {
    *("div", "span", "p", "br", "table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "path", "text", "tspan", "defs", "use", "clippath", "rect", "circle", "line"),
}


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts = [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_it_says_what_the_comparison_says():
    compared = typed(comparison())
    read, scope = Elements(comparison_html(compared)), about(compared)
    assert scope.strip().rstrip(":") in read.text
    headline = compared.headline.removeprefix(scope)
    assert headline in read.text
    for name, row in compared.methods.items():
        assert name in read.text
        assert f"{row.figures['kl'].mean:.2f}" in read.text
    assert "svg" in read.tags
    assert read.text.count(" − ") >= len(compared.pairwise)
    assert read.tags.count("tr") == 1 + len(METHODS)


def test_nothing_in_it_runs_or_loads():
    read = Elements(comparison_html(typed(comparison())))
    assert set(read.tags) <= ELEMENTS
    assert not {name for name in read.attributes if name.startswith("on") or name in ("src", "srcset", "action")}
    html = comparison_html(typed(comparison()))
    assert "var(--" not in html, "a notebook has none of the report's variables"
    assert not re.search(r'href="(?!#)', html)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(kind):
    text = HOSTILE[kind]
    read, plain = (Elements(comparison_html(typed(one))) for one in (poisoned(comparison(), text), comparison()))
    assert set(read.tags) == set(plain.tags)
    assert read.attributes == plain.attributes
    shown = "".join(visible(METHODS[0] + text).split())
    assert shown.replace("-", "−") in "".join(read.text.split()).replace("-", "−")
    lines = Elements(lines_html([text, "second"]))
    assert set(lines.tags) == {"div", "p"}
    assert lines.text.endswith("second")


def test_two_figures_of_a_notebook_share_no_ids():
    first, second = typed(comparison()), typed(comparison())
    second = replace(second, pairwise=second.pairwise[:1])
    ids = [set(re.findall(r'\bid="([^"]+)"', comparison_html(one))) for one in (first, second)]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]


def test_what_is_not_known_is_not_drawn():
    assert differences(typed(bare())) is None
    html = comparison_html(typed(bare()))
    assert "<svg" not in html
    assert "preflab" in html


def test_a_figure_of_many_pairs_says_how_many_it_leaves_out():
    compared = typed(comparison())
    many = replace(compared, pairwise=compared.pairwise * MOST_PAIRS)
    plot = differences(many)
    assert f"{len(many.pairwise) - MOST_PAIRS} more pairs" in plot.caption


def test_a_pair_without_an_interval_is_a_point():
    from preflab.eval.report.figures import page_svg

    compared = typed(comparison())
    pair = compared.pairwise[0]
    open_ended = replace(pair, difference=replace(pair.difference, low=float("-inf"), high=float("inf")))
    assert "inf" not in page_svg(differences(replace(compared, pairwise=(open_ended,)))).replace("infobox", "")
