"""docs/metrics.md, "A new metric", followed to the letter: its one file, beside a copy of `eval/`."""

from __future__ import annotations

import json

import pytest
from new_file import ROOT, add_to_copy, run_in_copy

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
SCRIPT = """
import json, sys
from pathlib import Path
from docs.make_metric_page import page
from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.contests import by_gold
from preflab.eval.comparison.record import summarise_comparison
from preflab.eval.metrics import load
from preflab.eval.records.comparison import Comparison
from preflab.eval.records.records import Records
from preflab.eval.report import write_report
from preflab.versions import provenance

def answers(*texts):
    return [{"prompt": str(at), "response": text, "length": 3, "gold": len(text)} for at, text in enumerate(texts)]

start = Contestant("sft", [Records(answers("Yes.", "No.", "Perhaps."), [])])
asking = Contestant("asking", [Records(answers("Why?", "No.", "Who, me?"), [])])
summary = summarise_comparison([start, asking], baseline=[start.records], decide=by_gold)
facts = {"baseline": "sft", "judge": None, "reward_model": None, "seeds": (), "config": {}, "data": {}}
comparison = Comparison(**vars(summary), **facts, **provenance())
write_report(comparison, {}, Path("report"))
print(json.dumps({
    "figures": {name: vars(row.figures["questions"]) for name, row in comparison.methods.items()},
    "alone": load("questions").compute(response=["Why?", "No.", "Who, me?"]),
    "page": page(),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of `eval/` with the page's file in it, and what a comparison made of it."""
    folder = tmp_path_factory.mktemp("new_metric")
    add_to_copy("metrics.md", folder)
    (folder / "found.json").write_text(run_in_copy(folder, "-c", SCRIPT))
    return folder


@pytest.fixture
def found(folder):
    return json.loads((folder / "found.json").read_text())


def test_the_figure_is_in_the_comparison(found):
    assert found["figures"]["sft"]["mean"] == 0.0
    assert found["figures"]["asking"]["mean"] == pytest.approx(2 / 3)
    assert "of one seed the figure is 2/3" in PAGE
    assert found["figures"]["asking"]["low"] < 2 / 3 < found["figures"]["asking"]["high"] <= 1.0


def test_it_is_an_evaluate_metric_by_itself(found):
    assert found["alone"]["questions"] == pytest.approx(2 / 3)
    assert found["alone"]["n"] == 3


def test_tables_and_page_have_its_column(folder):
    heading, _, *rows = (folder / "report/table.md").read_text().splitlines()
    assert heading.split(" | ")[-2:] == ["ask", "training |"]  # last of the figures
    assert any("66.7 %" in row for row in rows)
    assert "ask" in (folder / "report/table.tex").read_text()
    assert "66.7 %" in (folder / "report/report.html").read_text()


def test_the_documentation_has_its_section(found):
    section = found["page"].split("\n## questions\n")[1]
    assert "share of responses with a question mark" in section
    assert "Value of a prompt: 1 where a response has a question mark, else 0." in section
