"""Tables of measures: which columns there are, and how their numbers are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from preflab.eval.metrics.measures import Column, fixed, three
from preflab.eval.records.figures import Figure
from preflab.eval.report.table import figure_text, scaled
from preflab.eval.report.text import finite

Table = dict[str, Any]
Value = Figure | float | None


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
    Column("pairs", "compared pairs", _units(1000, "", "k", "M", "G")),
    Column("responses", "responses", _units(1000, "", "k", "M", "G")),
    Column("tokens", "tokens through training", _units(1000, "", "k", "M", "G", "T")),
    Column("trained_tokens", "response tokens trained", _units(1000, "", "k", "M", "G", "T")),
    Column("sampled_tokens", "tokens sampled", _units(1000, "", "k", "M", "G", "T")),
    Column("flops", "FLOPs", _units(1000, "", "k", "M", "G", "T", "P", "E", "Z")),
    Column("peak_memory_bytes", "peak memory", _units(1024, "B", "KiB", "MiB", "GiB", "TiB")),
)


def measure_table(records: Mapping[str, Mapping[str, Value]], columns: Iterable[Column]) -> Table | None:
    """Return headings and cells of the columns that some record fills; None where none does.

    Args:
        records: per method, figures or bare numbers by column key.
        columns: in order.

    Returns:
        ``headings`` and ``rows``: ``name`` and ``cells`` of ``text``, ``interval`` and ``value`` (to sort by).
    """
    filled = [c for c in columns if any(finite(_figure(record.get(c.key)).mean) for record in records.values())]
    rows = [{"name": name, "cells": [cell(record.get(c.key), c) for c in filled]} for name, record in records.items()]
    return {"headings": [c.heading for c in filled], "rows": rows} if filled else None


def cell(value: Value, column: Column) -> Table:
    """Return text, interval and value (to sort by) of a figure, a bare number or nothing."""
    figure = _figure(value)
    text, interval = figure_text(figure, column)
    return {"text": minus(text), "interval": minus(interval), "value": figure.mean if finite(figure.mean) else None}


def _figure(value: Value) -> Figure:
    """Return a value as a figure; a bare number has no interval, and nothing no mean."""
    mean = math.nan if value is None or isinstance(value, Figure) else value
    return value if isinstance(value, Figure) else Figure(mean, math.nan, math.nan, 0)


def minus(text: str) -> str:
    """Return `text` with its hyphens as minus signs."""
    return text.replace("-", "−")
