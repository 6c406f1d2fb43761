"""Model cards as text: whatever stands in a name, the YAML stays YAML and the Markdown says what was meant."""

from __future__ import annotations

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from preflab.model.card import Card, Section, block, code, table

HOSTILE = (
    "a: b\n---\n# owned",
    "`x` ``y`` | z",
    "<img src=x onerror=alert(1)>",
    "{{ jinja }} {% raw %}",
    "'\"\\ \u202e \x1b[2J",
    "- [x](javascript:1)",
    "",
    "@" * 5000,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_a_card(text):
    fields = {"base_model": text, "tags": ["preflab", text], "license": None}
    row = table(["setting", "here"], [[code(text), code("plain")]])
    card = Card(text, fields, [f"On {code(text)}."], [Section("Data", [row, block(text, "sh")])]).text()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    said = yaml.safe_load(front)
    assert set(said) <= {"base_model", "tags"}
    assert said["tags"][0] == "preflab"
    assert "\x1b" not in card
    assert "\u202e" not in card
    body = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)
    assert [line for line in body.split("\n") if line.startswith("#")][1:] == ["## Data"], "no heading of its own"
    cells = re.split(r"(?<!\\)\|", next(line for line in body.split("\n") if line.endswith("| `plain` |")))
    assert len(cells) == 4, "two cells, whatever is in them"
    assert ModelCard(card).data.tags[0] == "preflab", "the hub's own reader takes it"


@pytest.mark.parametrize(("text", "span"), [("a", "`a`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("", "–")])
def test_a_code_span_is_longer_than_what_it_holds(text, span):
    assert code(text) == span


def test_a_code_block_is_ended_by_nothing_in_it():
    assert block("a\n```\nb").split("\n") == ["````", "a", "```", "b", "````"]


def test_a_table_without_rows_is_nothing():
    assert table(["a"], []) == ""
