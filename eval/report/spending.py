"""What methods were given and what they cost, quantity by quantity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preflab.eval.comparison.budgets import CHARGED, QUANTITIES, SETTINGS, TOLERANCE, how_far_apart
from preflab.eval.metrics.measures import Column
from preflab.eval.records.comparison import Comparison
from preflab.eval.report.measures import COSTS, Table, Value, cell
from preflab.eval.report.text import finite

REWARD_MODEL = "reward model"
KINDS = {"own": "its own training", "alone": "with all it stands on", "shared": "with its share of that"}
"""How a charge is counted (`eval.records.comparison.Charge`), in words."""


def budgets(comparison: Comparison) -> Table | None:
    """Return a row a quantity: what each method took, and whether that was equal; None where nothing was trained.

    Returns:
        ``names``, ``rows`` (``heading``, ``cells``, ``equal``), ``charged`` (the same with the stages that methods
        stand on, ``heading`` and ``cells``), ``stands_on``, ``matched``, ``sentence`` and ``tolerance``.
    """
    known: dict[str, dict[str, Value]] = {
        name: {**vars(row.train), "settings_tried": row.settings_tried}
        for name, row in comparison.methods.items()
        if row.train
    }
    compared = list(known)
    if comparison.reward_model and comparison.reward_model.train:
        known[REWARD_MODEL] = vars(comparison.reward_model.train)
    if not known:
        return None
    rows = []
    for column in COSTS:
        values = {name: record.get(column.key) for name, record in known.items()}
        if any(finite(value) for value in values.values()):
            row = {"heading": column.heading, "cells": [cell(value, column) for value in values.values()]}
            rows.append({**row, "equal": _equal(comparison, column.key, [values[name] for name in compared])})
    return {
        "names": list(known),
        "rows": rows,
        "charged": _charged(comparison),
        "matched": comparison.budgets.matched,
        "sentence": comparison.budgets.sentence,
        "tolerance": f"{100 * TOLERANCE:g} %",
    }


def _equal(comparison: Comparison, key: str, values: list[Any]) -> str:
    """Return whether methods were given as much of something, as the record says."""
    said = {**QUANTITIES, "settings_tried": SETTINGS}[key]
    if said in comparison.budgets.equal:
        return "yes"
    if said in comparison.budgets.unknown:
        return "not counted by all"
    if said not in comparison.budgets.unequal:
        return "–"
    # Where a method that was not trained is counted among others, the sentence says how far the rest are apart.
    known = values and all(map(finite, values)) and not comparison.budgets.untrained
    return f"no, {how_far_apart(values)}" if known else "no"


def _charged(comparison: Comparison) -> Table | None:
    """Return what methods took with the stages that they stand on; None where they stand on none."""
    found, stands_on = comparison.budgets.charged, comparison.budgets.stands_on
    if not any(stands_on.values()):
        return None
    columns: Mapping[str, Column] = {column.key: column for column in COSTS}
    rows = []
    for what in CHARGED:
        charges = [vars(charged[what]) if what in charged else {} for charged in found.values()]
        for kind, said in KINDS.items():
            heading = f"{columns[what].heading}, {said}"
            rows.append({"heading": heading, "cells": [cell(c.get(kind), columns[what]) for c in charges]})
    return {"names": list(found), "rows": rows, "stands_on": [", ".join(stands_on.get(n, ())) or "–" for n in found]}
