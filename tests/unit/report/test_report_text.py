"""Text in a report stays text: nothing in it runs, loads or deceives."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hostile import HOSTILE, poisoned
from report_fixture import METHODS, comparison, of_methods, samples, typed
from report_page import Page, page

from preflab.eval.report import write_report
from preflab.eval.report.page import render
from preflab.eval.report.table import latex_table, markdown_table
from preflab.eval.report.text import clean, embedded, visible


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_in_every_field_stays_text(kind: str) -> None:
    text = HOSTILE[kind]
    compared = poisoned(comparison(), text)
    answers = {name + text: poisoned(seeds, text) for name, seeds in samples(prompts=3).items()}
    shown = clean(typed(compared))
    plain, read = page(comparison(), samples(prompts=3)), Page(render(shown, answers, []))
    # The same elements with the same attributes' names, whatever the texts are.
    assert [(t, sorted(a)) for t, a in read.elements] == [(t, sorted(a)) for t, a in plain.elements]
    assert len(read.inside["script"]) == 2
    assert read.inside["script"][-1] == plain.inside["script"][-1]
    data = json.loads(read.inside["script"][0])
    assert data["methods"] == [visible(name + text) for name in METHODS]
    assert visible(text) in data["prompts"][0]["text"]
    everything = read.text + read.inside["script"][0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", everything)
    assert "".join(visible(text).split()) in "".join(read.text.split())  # shown as it is, not evaluated


def test_hostile_names_in_figures_and_tables(tmp_path: Any) -> None:
    # What a legend cuts off is not drawn; what Matplotlib could read as mathematics stands first.
    text = "".join(HOSTILE[kind] for kind in sorted(HOSTILE, key=lambda kind: kind != "mathtext"))
    compared = poisoned(comparison(), text) | {"training": {}, "overoptimisation": None}
    write_report(typed(compared), {}, tmp_path)
    figures = list(tmp_path.glob("figures/*.svg"))
    assert len(figures) == 6
    for path in figures:
        tags = {e.tag.rpartition("}")[2] for e in ElementTree.parse(path).iter() if isinstance(e.tag, str)}
        assert not tags & {"script", "foreignObject", "image", "a", "animate", "set"}
    table = (tmp_path / "table.tex").read_text()
    assert r"\input" not in table
    assert len(re.findall(r"(?<!\\)&", table)) == 5 * 7  # a heading and four methods, of eight columns
    assert "<script" not in (tmp_path / "table.md").read_text()


def test_embedded_json_cannot_end_its_element() -> None:
    data = {"</script>": ["<!--", "&amp;", "\u2028\u2029"]}
    text = str(embedded(data))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x00\x1b\x7f", "‹U+0000›‹U+001B›‹U+007F›"),
        ("\u202eabc\u2069", "‹U+202E›abc‹U+2069›"),
        ("\ud800", "‹U+D800›"),
        ("می\u200cخواهم 👩\u200d🔬", "می\u200cخواهم 👩\u200d🔬"),
    ],
    ids=["space", "control", "direction", "surrogate", "joiners"],
)
def test_hidden_characters_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_latex_table() -> None:
    kl = {"mean": -0.5, "low": -1.0, "high": 0.0, "n": 9}
    lines = latex_table(of_methods({"[a_b]--c": {"kl": kl, "train": {"seconds": 42.0}}})).splitlines()
    assert r"    method & KL to ref. & training \\" in lines
    assert r"    {[}a\_b]-{}-c & $-$0.50 {\small [$-$1.00, 0.00]} & 42 s \\" in lines
    assert lines[0] == r"\begin{table}"
    starred = latex_table(of_methods({"a": {}, "*b": {}}))
    assert "    {*}b & " in starred  # after a row's end a star would vanish


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("http://a.b/c", r"http\://a.b/c"),
        ("WWW.a.b", r"WWW\.a.b"),
        ("$x$", r"\$x\$"),
        ("<b>&lt;", "&lt;b&gt;&amp;lt;"),
        ("qwen2.5-7b", "qwen2.5-7b"),
    ],
)
def test_markdown_makes_no_links_and_formulas_of_names(name: str, shown: str) -> None:
    assert f"| {shown} |" in markdown_table(of_methods({name: {}}))
