"""A piece of work that takes long enough to be shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preflab.errors.terminal import one_line

LONGEST_TITLE = 80  # characters
LONGEST_NAME = 24


class Task:
    """A piece of work. Pickled, it is what another process shows of it, and tells nobody of changes.

    Args:
        title: what it is called.
        total: how much there is to do; None where nobody knows.
        unit: what is counted, in the singular.
        done: how much was done before.
        now: seconds, when it began.
        moved: is told of every change.
    """

    def __init__(
        self, title: str, total: float | None, unit: str, done: float, now: float, moved: Callable[[Task], None]
    ) -> None:
        self.title, self.total, self.unit = one_line(title, LONGEST_TITLE), total, unit
        self.done = self.first = done
        self.began, self.figures, self._moved = now, dict[str, float](), moved

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_moved": _nobody}

    def advance(self, count: float = 1) -> None:
        """Say that so much more is done."""
        self.reach(self.done + count)

    def reach(self, done: float) -> None:
        """Say how much is done in all."""
        self.done = done
        self._moved(self)

    def note(self, figures: dict[str, float]) -> None:
        """Show figures beside it, by name."""
        self.figures = {one_line(name, LONGEST_NAME): value for name, value in figures.items()}
        self._moved(self)

    def left(self, now: float) -> float | None:
        """Return the seconds that the rest will take at the pace so far; None where nothing tells."""
        if self.total is None or self.done <= self.first:
            return None
        return (now - self.began) * max(0.0, self.total - self.done) / (self.done - self.first)


def _nobody(task: Task) -> None:
    """Hear of a change, and do nothing."""
