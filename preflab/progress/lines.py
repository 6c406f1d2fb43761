"""Displays that draw nothing: plain lines with the time, word to another process, silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preflab.progress.board import Board, View
from preflab.progress.task import Task
from preflab.progress.words import all_of, duration

EVERY = 60.0
"""Seconds without a line after which one says how far things are."""

TOLD_EVERY = 0.5
"""Seconds between two words to another process."""


class Lines:
    """Plain lines with the time: what is said, and how far things are after a minute without a line.

    Args:
        write: takes each line.
        clock: seconds, monotonic.
        stamp: the time of day.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float], stamp: Callable[[], str]) -> None:
        self.write, self.clock, self.stamp = write, clock, stamp
        self._last = clock()

    def say(self, line: str) -> None:
        """Write a line."""
        self.write(f"{self.stamp()} {line}")
        self._last = self.clock()

    def moved(self, board: Board) -> None:
        """Wait for the next beat: what moves fast would fill a file."""

    def beat(self, board: Board) -> None:
        """Say how far everything is, where nothing has been said for a while."""
        if self.clock() - self._last >= EVERY:
            self.say(in_a_line(board.view()))

    def closed(self) -> None:
        """Say nothing: stages have lines of their own at their end."""


def in_a_line(view: View) -> str:
    """Return all that is under way."""
    parts = [f"{view.done} of {view.whole} stages done"] if view.whole else []
    for lane in view.lanes:
        named = not lane.tasks or lane.tasks[0].title != lane.title
        at = all_of(lane.tasks, view.now) if lane.tasks else f"for {duration(view.now - lane.began)}"
        parts.append(f"{lane.title}: {at}" if named else at)
    if view.left is not None:
        parts.append(f"whole run: about {duration(view.left)} left")
    return " | ".join(parts)


class Told:
    """Tells another process, which shows it.

    Args:
        tell: takes the tasks under way.
        clock: seconds, monotonic, the same for both processes.
    """

    def __init__(self, tell: Callable[[Sequence[Task]], object], clock: Callable[[], float]) -> None:
        self.tell, self.clock = tell, clock
        self._last = clock()

    def say(self, line: str) -> None:
        """Drop it: what stays is in the report of the whole piece."""

    def moved(self, board: Board) -> None:
        """Tell, now and then."""
        if self.clock() - self._last >= TOLD_EVERY:
            self._last = self.clock()
            self.tell(board.tasks)

    def beat(self, board: Board) -> None:
        """Wait for what moves."""

    def closed(self) -> None:
        """Nothing is held."""


class Nothing:
    """Shows nothing: for all processes of a distributed run but the first, and where nobody wants to see it."""

    def say(self, line: str) -> None:
        """Drop it."""

    def moved(self, board: Board) -> None:
        """Drop it."""

    def beat(self, board: Board) -> None:
        """Drop it."""

    def closed(self) -> None:
        """Nothing is held."""
