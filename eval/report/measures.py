"""Tables of measures: which columns there are, and how their numbers are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eval.metrics.measures import Column, fixed, three
from eval.metrics.preference_accuracy import ACCURACY
from eval.report.table import estimate_text, scaled
from eval.report.text import finite

Table = dict[str, Any]


def _units(base: int, *units: str) -> Callable[[float], str]:
    return lambda value: scaled(value, base, units)


LAWS = (
    Column("alpha", "α", three),
    Column("beta", "β", three),
    Column("r2", "R²", three),
    Column("peak_d", "√KL at the peak", fixed),
    Column("peak_gold", "gold reward there", fixed),
)
COSTS = (
    Column("settings_tried", "settings tried", lambda x: f"{x:.0f}"),
    Column("steps", "steps", lambda x: f"{x:.0f}"),
    Column("seconds", "wall time", lambda x: f"{x:.1f} s" if x < 9.95 else f"{x:,.0f} s"),
    Column("prompts", "prompts", _units(1000, "", "k", "M", "G")),
    Column("pairs", "pairs", _units(1000, "", "k", "M", "G")),
    Column("tokens", "tokens trained", _units(1000, "", "k", "M", "G", "T")),
    Column("sampled_tokens", "tokens sampled", _units(1000, "", "k", "M", "G", "T")),
    Column("flops", "FLOPs", _units(1000, "", "k", "M", "G", "T", "P", "E", "Z")),
    Column("peak_memory_bytes", "peak memory", _units(1024, "B", "KiB", "MiB", "GiB", "TiB")),
)


def measure_table(records: Mapping[str, Mapping[str, Any]], columns: Iterable[Column]) -> Table | None:
    """Return headings and cells of the columns that some record fills; None where none does.

    Args:
        records: per method, estimates or bare numbers by column key.
        columns: in order.

    Returns:
        ``headings`` and ``rows``: ``name`` and ``cells`` of ``text``, ``interval`` and ``value`` (to sort by).
    """
    filled = [c for c in columns if any(_mean(record.get(c.key)) is not None for record in records.values())]
    rows = [{"name": name, "cells": [cell(record.get(c.key), c) for c in filled]} for name, record in records.items()]
    return {"headings": [c.heading for c in filled], "rows": rows} if filled else None


def _mean(value: Any) -> float | None:
    """Return the number in a bare number, an estimate, or the ``{accuracy}`` of a likelihood."""
    if isinstance(value, Mapping):
        value = value.get("mean", value.get(ACCURACY.key))
    if isinstance(value, Mapping):
        value = value.get("mean")
    return value if finite(value) else None


def cell(value: Any, column: Column) -> Table:
    """Return text, interval and value (to sort by) of an estimate, a bare number or nothing."""
    estimate = value.get(ACCURACY.key, value) if isinstance(value, Mapping) else value
    if not isinstance(estimate, Mapping):
        estimate = {"mean": _mean(value)}
    text, interval = estimate_text(estimate, column)
    return {"text": minus(text), "interval": minus(interval), "value": _mean(value)}


def minus(text: str) -> str:
    """Return `text` with its hyphens as minus signs."""
    return text.replace("-", "−")
