"""A detector that lacks what it looks at says so: silence for want of data is no clean bill of health."""

from __future__ import annotations

import pytest

from preflab.eval.diagnosis import DETECTORS, Evidence, diagnose, examine
from preflab.eval.records.records import Records


def sample(**fields):
    row = {"prompt": "p", "response": "some words that are said", "length": 5, "ended": True, "log_ratio": 0.5,
           "kl": 0.5, "entropy": 1.0, "gold": 1.0, "proxy": 1.0}  # fmt: skip
    return {**row, **fields}


def records(**fields):
    return Records([sample(prompt=f"p{i}", gold=float(i % 3), proxy=float(i % 5), **fields) for i in range(20)], [])


def test_without_any_data_nothing_was_examined():
    assert examine(Evidence()) == ([], [])
    assert all(known.examine(Evidence()) == (None, False) for known in DETECTORS)


def test_what_is_there_is_examined_and_nothing_else():
    found, seen = examine(Evidence(records=records(), baseline=records(log_ratio=0.0)))
    assert found == []
    there = {"KL blow-up", "negative KL", "mode collapse", "repetition", "missing end tokens", "reward hacking"}
    assert there <= set(seen)
    assert not {"clipped updates", "gradient explosion", "first ratio", "overfitting", "length bias"} & set(seen)


@pytest.mark.parametrize(
    ("symptom", "metric"),
    [("clipped updates", "clip_fraction"), ("gradient explosion", "grad_norm"), ("no reward variance", "reward")],
)
def test_a_metric_that_is_logged_is_examined(symptom, metric):
    lines = [{"step": step, metric: 0.1 + 0.001 * step} for step in range(1, 21)]
    assert symptom in examine(Evidence(metrics=lines))[1]
    assert symptom not in examine(Evidence(metrics=[{"step": 1, "loss": 1.0}]))[1]


def test_a_finding_counts_as_examined():
    lines = [{"step": step, "clip_fraction": 0.9} for step in range(1, 21)]
    findings, seen = examine(Evidence(metrics=lines))
    assert [finding.symptom for finding in findings] == ["clipped updates"]
    assert findings == diagnose(Evidence(metrics=lines))
    assert "clipped updates" in seen
