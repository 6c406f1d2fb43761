"""No machinery knows a metric by name: what needs one figure imports its object, everything else is a loop."""

from __future__ import annotations

import ast
from pathlib import Path

from preflab.eval.metrics import METRICS

ROOT = Path(__file__).resolve().parents[3]
MEASURES = [measure for metric in METRICS.values() for measure in (*metric.measures, *metric.details)]
COLUMNS = {name for measure in MEASURES for name in measure.reads}
"""Columns of records, some of which a figure is named after."""

ROLES = {"reward"}
NAMES = ({*METRICS} | {measure.key for measure in MEASURES}) - COLUMNS - ROLES

# The same words for something else.
OTHERWISE = {
    "eval/diagnosis": {"accuracy", "response_length", "repetition"},  # lines of training's log; a symptom
    "eval/frontier": {"gold_reward", "proxy_reward"},  # arguments and axes of the frontier
    "eval/judges/base.py": {"wins"},  # an attribute
    "eval/pipeline/showing.py": {"likelihood"},  # a heading
    "eval/report/drawings.py": {"accuracy", "response_length", "reliability"},  # lines of the log, axes, a plot
    "eval/report/page.py": {"reliability"},  # a plot
    "eval/statistics": {"length_controlled_win_rate"},  # a function
}


def named(source: str) -> set[str]:
    """Return the names of metrics among a source's string constants."""
    constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)} & NAMES


def test_no_metric_is_named_outside_its_file():
    found = {}
    for path in (path for room in ("eval", "recipes") for path in sorted((ROOT / room).rglob("*.py"))):
        place = str(path.relative_to(ROOT))
        if place.startswith("eval/metrics/"):
            continue
        otherwise = {name for where, names in OTHERWISE.items() if place.startswith(where) for name in names}
        if names := named(path.read_text(encoding="utf-8")) - otherwise:
            found[place] = names
    assert not found


def test_a_name_is_seen():
    assert named("row.get('win_rate')") == {"win_rate"}
    assert named("summary['heldout_accuracy'] = f(rows, key='auc')") == {"heldout_accuracy", "auc"}
    assert {"gold_reward", "accuracy", "ece", "distinct_2", "kl_log_ratio", "demonstration_logp"} <= NAMES
