"""How far a task is, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from preflab.progress.task import Task


def duration(seconds: float) -> str:
    """Return a time as a person says it, such as ``45 s``, ``4 min`` or ``2 h 10 min``."""
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def how_far(task: Task, now: float) -> str:
    """Return where a task is: how much is done, how long the rest will take at the pace so far, its figures."""
    if task.total is None:
        count = f"{task.done:,.0f} {task.unit}{'' if task.done == 1 else 's'} so far" if task.done else ""
        parts = [count or f"for {duration(now - task.began)}"]
    else:
        parts = [f"{task.unit} {task.done:,.0f} of {task.total:,.0f}"]
        left = task.left(now)
        parts += [f"about {duration(left)} left"] if left is not None else []
    return ", ".join([*parts, *(f"{name} {value:.3g}" for name, value in task.figures.items())])


def all_of(tasks: Sequence[Task], now: float) -> str:
    """Return where tasks are, each inside the one before it; what holds others and counts nothing is a title alone."""
    parts: list[str] = []
    for number, task in enumerate(tasks):
        outer = task.total is None and not task.done and number + 1 < len(tasks)
        said = task.title if outer else how_far(task, now)
        # A stage and the loop in it have one name.
        named = outer or (number > 0 and tasks[number - 1].title.endswith(task.title))
        parts.append(said if named else f"{task.title}: {said}")
    return " · ".join(parts)


def kind(stage: str) -> str:
    """Return a stage's name without its number: stages of one kind take about as long as each other."""
    return re.sub(r"-(seed|step)?\d+", "", stage)


def listed(names: Iterable[str]) -> str:
    """Return names with commas and a last "and"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
