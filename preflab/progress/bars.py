"""Bars in a terminal, one for each task that lasts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from preflab.progress.task import Task

DELAY = 0.5
"""Seconds before a task has a bar: what is over by then would only flicker."""


class Bars:
    """Draws with tqdm."""

    def __init__(self) -> None:
        self._bars: dict[Task, Any] = {}

    def say(self, line: str) -> None:
        """Write a line above the bars."""
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def moved(self, tasks: Sequence[Task], now: float) -> None:
        """Draw what has changed, as often as tqdm finds worth it."""
        for task in tasks:
            if task not in self._bars and now - task.began >= DELAY:
                self._bars[task] = self._drawn(task, now)
            if (bar := self._bars.get(task)) is not None:
                if task.figures:
                    bar.set_postfix({name: f"{value:.3g}" for name, value in task.figures.items()}, refresh=False)
                bar.update(task.done - bar.n)

    def beat(self, tasks: Sequence[Task], now: float) -> None:
        """Draw every bar anew: the time beside it moves."""
        self.moved(tasks, now)
        for bar in self._bars.values():
            bar.refresh()

    def closed(self, task: Task) -> None:
        """Take the bar away."""
        if (bar := self._bars.pop(task, None)) is not None:
            bar.close()

    def _drawn(self, task: Task, now: float) -> Any:
        from tqdm import tqdm

        bar = tqdm(
            total=task.total,
            initial=task.first,
            desc=task.title,
            unit=task.unit,
            # What counts nothing has the time alone.
            bar_format="{desc}: {elapsed}" if task.total is None and not task.done else None,
            leave=False,
            file=sys.stderr,
        )
        bar.start_t -= now - task.began
        return bar
