"""docs/conformance.md: every native method is in it, keeps its bound and the contract."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

from preflab.eval.conformance.table import markdown_table

DOCS = Path(__file__).parents[2] / "docs"
ROWS = json.loads((DOCS / "conformance.json").read_text(encoding="utf-8"))
OURS = {
    point.name for point in entry_points(group="preflab.algorithms") if point.value.startswith("preflab.algorithms.")
}
NATIVE = {name for name in OURS if not name.startswith("trl-")}
KNOWN = {"dpo", "robust-dpo", "ipo", "plackett-luce", "ppo", "a2c", "reinforce", "rloo", "grpo", "reinforce++"}
BOUNDS = {"exact": 0.005, "sampled": 0.02}


def keeps_its_bound(row):
    if row["regret"] is not None:
        return row["regret"] <= BOUNDS[row["labels"]]
    return row["r2"] >= 0.99 if row["r2"] is not None else row["gain_low"] > 0


def test_every_native_method_is_on_the_page():
    assert {row["method"] for row in ROWS} >= NATIVE


def test_the_page_shows_the_figures():
    assert markdown_table(ROWS) in (DOCS / "conformance.md").read_text(encoding="utf-8")


def test_every_native_method_keeps_its_bound():
    assert [row["method"] for row in ROWS if row["method"] in NATIVE and not keeps_its_bound(row)] == []


def test_every_check_of_the_contract_that_applies_holds():
    for row in ROWS:
        held, applied = row["checks"].split("/")
        assert held == applied, row["method"]
        assert int(applied) >= (10 if row["method"] in NATIVE - {"best-of-n"} else 0), row["method"]


def test_methods_with_a_known_optimum_are_held_to_it():
    assert {row["method"] for row in ROWS if row["regret"] is not None} >= KNOWN
    assert {row["labels"] for row in ROWS if row["method"] == "dpo"} == {"exact", "sampled"}
