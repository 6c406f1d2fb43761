"""How far work is, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from preflab.progress.task import Task


def duration(seconds: float) -> str:
    """Return a time as a person says it, such as ``45 s``, ``4 min`` or ``2 h 10 min``."""
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def in_figures(figures: Mapping[str, float]) -> list[str]:
    """Return figures as they are shown, each with its name."""
    return [f"{name} {value:.3g}" for name, value in figures.items()]


def counted(task: Task) -> str:
    """Return how much of a task is done; nothing where nobody counts."""
    if task.total is not None:
        return f"{task.unit} {task.done:,.0f} of {task.total:,.0f}"
    return f"{task.done:,.0f} {task.unit}{'' if task.done == 1 else 's'} so far" if task.done else ""


def how_far(task: Task, now: float) -> str:
    """Return where a task is: how much is done, how long the rest will take at the pace so far, its figures."""
    left = task.left(now)
    parts = [counted(task) or f"for {duration(now - task.began)}"]
    return ", ".join([*parts, *([] if left is None else [f"about {duration(left)} left"]), *in_figures(task.figures)])


def worth_showing(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks without those that count nothing and are called as the one inside them: a stage and its loop."""
    doubled = [outer for outer, inner in pairwise(tasks) if outer.title == inner.title and not counted(outer)]
    return [task for task in tasks if task not in doubled]


def all_of(tasks: Sequence[Task], now: float) -> str:
    """Return where tasks are, each inside the one before it; what holds others and counts nothing is a title alone."""
    *outer, last = worth_showing(tasks)
    parts = [f"{task.title}: {how_far(task, now)}" if counted(task) else task.title for task in outer]
    return " · ".join([*parts, f"{last.title}: {how_far(last, now)}"])


def kind(stage: str) -> str:
    """Return a stage's name without its number: stages of one kind take about as long as each other."""
    return re.sub(r"-(seed|step)?\d+", "", stage)


def listed(names: Iterable[str]) -> str:
    """Return names with commas and a last "and"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
