"""What an evaluation has found of a model, as a section of its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preflab.eval.metrics import measures_of
from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
from preflab.eval.metrics.measures import OF_METHOD, Column
from preflab.eval.records.comparison import Comparison
from preflab.eval.records.figures import Figure, Method
from preflab.eval.report.table import figure_text
from preflab.model.card import Section, code, table


def figures_section(comparison: Comparison, label: str, settings: Mapping[str, Any]) -> Section | None:
    """Return the figures of a method, means over its training seeds with their intervals.

    Args:
        comparison: what was found.
        label: what the method is called.
        settings: those that decided its training: at others, as a sweep has them, it is another model.

    Returns:
        None where the comparison says nothing of it.
    """
    name = _named(comparison, label, settings)
    if name is None:
        return None
    found = comparison.methods[name]
    rows = [
        _row(figure, column) for key, column in _columns().items() if (figure := found.figures.get(key)) is not None
    ]
    blocks = [_told(comparison, name, found), table(["figure", "mean", "95 % interval", "values"], rows)]
    return Section("Figures", [*blocks, f"The whole comparison: {code(comparison.headline)}"])


def reward_section(comparison: Comparison) -> Section | None:
    """Return what held-out pairs say of the reward model that policies were trained against."""
    model = comparison.reward_model
    if model is None or model.heldout_accuracy is None:
        return None
    rows = [_row(model.heldout_accuracy, HELDOUT_ACCURACY.column)]
    told = "Share of held-out pairs whose chosen response scores higher; mean over the reward models of all seeds."
    return Section("Figures", [told, table(["figure", "mean", "95 % interval", "values"], rows)])


def _columns() -> dict[str, Column]:
    """Return how each figure of a method is printed, in the order of the metrics."""
    measures = [measure for of in OF_METHOD for measure in measures_of(of)]
    return {m.key: m.column._replace(heading=m.heading or m.key.replace("_", " ")) for m in measures}


def _row(figure: Figure, column: Column) -> list[str]:
    mean, bounds = figure_text(figure, column)
    return [column.heading, mean, bounds or "–", f"{figure.n:,}"]


def _told(comparison: Comparison, name: str, found: Method) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    judge = f" Judge: {code(comparison.judge.name)}." if comparison.judge else ""
    against = f" Win rates are against {code(comparison.baseline)}." if comparison.baseline else ""
    tried = f" {found.settings_tried} settings of it were tried." if found.settings_tried > 1 else ""
    return (
        f"Of {code(name)} on held-out prompts and pairs, over training seeds {seeds}: this model is one of these."
        f"{judge}{against}{tried}"
    )


def _named(comparison: Comparison, label: str, settings: Mapping[str, Any]) -> str | None:
    """Return the name of a method if it was compared at these settings; where none are told, by its name alone."""
    found = comparison.methods.get(label)
    told = {} if found is None else found.settings
    return label if found and all(told.get(key) == value for key, value in settings.items() if told) else None
