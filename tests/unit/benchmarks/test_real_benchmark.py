"""The benchmark on real held-out preferences: its tables and its refusal by themselves, and a tiny run of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.validity import real_heldout
from benchmarks.validity.real_heldout import SCORERS, Result, accuracies, agreements, page, verdict

SHARED = Path(__file__).parents[4] / "shared"
PAGE = "before\n<!-- figures:real -->\nold\n<!-- /figures -->\nafter\n"


def result(margin, **changed):
    """One model on pairs of two subsets, alike by all scorers but the changed ones."""
    scores = np.stack([np.asarray(margin, float), np.zeros(len(margin))], axis=1)
    subsets = [("b", "a")[i % 2] for i in range(len(margin))]
    ours = dict.fromkeys(SCORERS, scores)
    return Result("small", "HH", subsets, ours, {**ours, **changed}, 50, 30)


def test_accuracies_are_by_subset():
    some = result([1, 1, 1, -1, 1, -1, 1, 0] * 5)
    found = accuracies(some._replace(subsets=["rare", *some.subsets[1:-1], "rare"]))
    for parts in found.values():
        assert {part: (row["mean"], row["n"]) for part, row in parts.items()} == {"HH": (5.5 / 8, 40)}
    for parts in accuracies(some).values():
        assert {part: (row["mean"], row["n"]) for part, row in parts.items()} == {
            "HH": (5.5 / 8, 40),
            "HH: a": (1.5 / 4, 20),
            "HH: b": (1, 20),
        }


def test_intervals_without_half_are_named():
    text = verdict([result([1.0] * 40)])
    assert text.count("above on HH (`small`), HH: a (`small`), HH: b (`small`)") == len(SCORERS)
    assert "of 3, about 0.2 would" in text
    assert verdict([result([1.0, 1.0, -1.0, -1.0] * 10)]).count("3 intervals: none") == len(SCORERS)


@pytest.mark.parametrize(
    ("off", "flips", "good"),
    [(0.0, 0, True), (1e-4, 1, True), (1e-4, 2, False), (0.1, 0, False)],
    ids=["equal", "near-tie", "two-near-ties", "another-score"],
)
def test_disagreement_is_seen(off, flips, good):
    margin = np.array([3.0, -3.0, 1e-5, 1e-5])
    ours = result(margin)
    second = ours.ours["likelihood"].copy()
    second[2 : 2 + flips, 0] -= off
    second[:2, 1] += off
    found = {one.scorer: one for one in agreements(ours._replace(independent={**ours.ours, "likelihood": second}))}
    assert found["likelihood"].good is good
    assert found["likelihood"].flipped == flips
    assert all(one.good for name, one in found.items() if name != "likelihood")


def test_page_has_both_tables():
    text = page([result([1.0, -1.0] * 4)])
    assert "`small`, trained on 30 pairs; 8 of the 50 pairs of HH:" in text
    assert "| HH | 8 | 50.0 % [" in text
    assert "difference in length: reward model on HH 1.00 [1.00, 1.00]; DPO, implicit reward on HH 1.00" in text
    assert "| likelihood | 8 | 50.00 % | 50.00 % | 0 | 0.0e+00 |" in text


def some_rows(name, count, longest=90):
    """The file's first short rows of each subset in turn."""
    with gzip.open(SHARED / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [
            row for row in map(json.loads, file) if all(len(row[k]) < longest for k in ("prompt", "chosen", "rejected"))
        ]
    by_subset = {}
    for row in rows:
        by_subset.setdefault(row["subset"], []).append(row)
    return [row for part in by_subset.values() for row in part[: count // len(by_subset)]]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real models and data are not at {SHARED}")
def test_tiny_run(tmp_path, monkeypatch, capsys):
    data, models, path = tmp_path / "data", tmp_path / "models", tmp_path / "page.md"
    data.mkdir()
    models.mkdir()
    (models / "stories260K").symlink_to(SHARED / "models" / "stories260K")
    path.write_text(PAGE)
    for name, count, longest in (
        (real_heldout.TRAIN, 30, 120),
        ("hh_heldout", 4, 120),
        ("llmbar_processed_human", 4, 300),
    ):
        lines = [json.dumps(row) for row in some_rows(name, count, longest)]
        assert len(lines) >= 3
        (data / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.setitem(real_heldout.SHORT, "max_response_tokens", 100)
    arguments = ["--data", data, "--models", models, "--output", path, "--runs", tmp_path / "runs", "--steps", "2"]
    real_heldout.main(list(map(str, arguments)))
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    for part in ("HH", "LLMBar", "mix"):
        assert f"| {part} |" in text
    assert "decided differently 0" in capsys.readouterr().out

    # Finished stages are found again; an answer to another question is not taken for agreement.
    elsewhere = lambda model, adapters, texts: dict.fromkeys(SCORERS, np.zeros((len(texts), 2)))  # noqa: E731
    monkeypatch.setattr(real_heldout, "independent_scores", elsewhere)
    with pytest.raises(SystemExit, match="disagree"):
        real_heldout.main(list(map(str, arguments)))
