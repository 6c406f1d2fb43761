"""Metrics, one a file: a pure function, and a class that says everything of it.

A file of this folder that defines a `PromptMetric` is a metric, by being there: the pipeline computes its figures,
tables and page show them, docs/metrics.md explains them. Its class works by import (``from preflab.eval.metrics import
load; load("win_rate")``) and by path (``evaluate.load("eval/metrics/win_rate.py")``).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from preflab.errors import UserError, near_misses
from preflab.eval.metrics.base import PromptMetric
from preflab.eval.metrics.measures import OF_METHOD, Column, Measure, Of, Place

__all__ = ["METRICS", "PromptMetric", "columns_of", "declared", "details_of", "load", "measures_of"]


def declared(module: ModuleType) -> list[type[PromptMetric]]:
    """Return the metric that a module defines itself; none of a module that helps others.

    Raises:
        ValueError: if it defines two: they would go by one name.
    """
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, PromptMetric)]
    own = [metric for metric in found if metric.__module__ == module.__name__ and metric is not PromptMetric]
    if len(own) > 1:
        names = " and ".join(metric.__name__ for metric in own)
        raise ValueError(f"{module.__name__} defines {names}; a metric is one file")
    return own


def in_order(metrics: Mapping[str, type[PromptMetric]]) -> dict[str, type[PromptMetric]]:
    """Return metrics by `order`, then by name.

    Raises:
        ValueError: if two figures that stand side by side in ``comparison.json`` go by one name.
    """
    holders: dict[tuple[bool, str], str] = {}
    for name, metric in metrics.items():
        for measure in (*metric.measures, *metric.details):
            place = (metric.of in OF_METHOD, measure.key)
            if place in holders:
                raise ValueError(f"metrics {holders[place]} and {name} both give {measure.key!r}; rename one of them")
            holders[place] = name
    return dict(sorted(metrics.items(), key=lambda item: (item[1].order, item[0])))


def _found() -> dict[str, type[PromptMetric]]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return in_order({name: metric for name in names for metric in declared(import_module(f"{__name__}.{name}"))})


METRICS: Mapping[str, type[PromptMetric]] = _found()
"""Every metric by the name of its file, in order."""


def load(name: str) -> PromptMetric:
    """Return a new instance of a metric.

    Raises:
        UserError: if no metric has this name.
    """
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise UserError(f"unknown metric {name!r}{near_misses(name, METRICS)}; known: {known}")
    return METRICS[name]()


def measures_of(of: Of) -> list[Measure]:
    """Return the measures of some rows, in order; details are left out."""
    return [measure for metric in METRICS.values() if metric.of == of for measure in metric.measures]


def details_of(of: Of) -> list[Measure]:
    """Return what stands beside the measures of some rows, in order."""
    return [detail for metric in METRICS.values() if metric.of == of for detail in metric.details]


def columns_of(place: Place) -> tuple[Column, ...]:
    """Return the columns of a table, in order."""
    every = (measure for metric in METRICS.values() for measure in metric.measures)
    return tuple(measure.column for measure in every if place in measure.shown)
