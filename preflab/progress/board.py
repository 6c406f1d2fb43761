"""What is being done at this moment: tasks inside tasks, and the stages of a run one after another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import NamedTuple, Protocol

from preflab.errors.terminal import one_line
from preflab.progress.task import Task
from preflab.progress.words import all_of, duration, kind

FIRST, EVERY = 10.0, 30.0
"""Seconds without a line after which one says how far things are: once after a headline, then again and again."""


class Display(Protocol):
    """What shows a board."""

    def say(self, line: str) -> None:
        """Show a line that stays."""
        ...

    def moved(self, tasks: Sequence[Task], now: float) -> None:
        """Hear that one of the tasks has moved."""
        ...

    def beat(self, tasks: Sequence[Task], now: float) -> None:
        """Show that time goes by: called about once a second while there are tasks."""
        ...

    def closed(self, task: Task) -> None:
        """Hear that a task is over."""
        ...


class Lines:
    """Plain lines with the time: headlines, and how far things are after some seconds without a line.

    Args:
        write: takes each line.
        clock: seconds, monotonic.
        stamp: the time of day.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float], stamp: Callable[[], str]) -> None:
        self.write, self.clock, self.stamp = write, clock, stamp
        self._last, self._gap = clock(), FIRST

    def say(self, line: str) -> None:
        """Write a headline."""
        self.write(f"{self.stamp()} {line}")
        self._last, self._gap = self.clock(), FIRST

    def moved(self, tasks: Sequence[Task], now: float) -> None:
        """Wait for the next beat: what moves fast would fill a file."""

    def beat(self, tasks: Sequence[Task], now: float) -> None:
        """Say how far everything is, where nothing has been said for a while."""
        if tasks and now - self._last >= self._gap:
            self.write(f"{self.stamp()} {all_of(tasks, now)}")
            self._last, self._gap = now, EVERY

    def closed(self, task: Task) -> None:
        """Say nothing: stages have lines of their own at their end."""


class Nothing:
    """Shows nothing: for all processes of a distributed run but the first."""

    def say(self, line: str) -> None:
        """Drop it."""

    def moved(self, tasks: Sequence[Task], now: float) -> None:
        """Drop it."""

    def beat(self, tasks: Sequence[Task], now: float) -> None:
        """Drop it."""

    def closed(self, task: Task) -> None:
        """Drop it."""


class Made(NamedTuple):
    """A stage that was made, and the seconds that it took."""

    name: str
    seconds: float


class Board:
    """Tasks under way and stages to come, shown on a display.

    Args:
        display: gives the display; asked whenever nothing is under way.
        clock: seconds, monotonic.
        opened: is called when a task begins where there was none.

    Attributes:
        made: the stages made while it was shown, in order.
    """

    def __init__(
        self,
        display: Callable[[], Display],
        clock: Callable[[], float],
        opened: Callable[[Board], object] = lambda board: None,
    ) -> None:
        self.clock, self.tasks, self._opened = clock, list[Task](), opened
        self._choose, self._shown = display, display()
        self._lock = threading.RLock()
        self._coming: Counter[str] = Counter()  # by kind: at which step a snapshot lies is known when it is there
        self._stages = self._number = self._inside = 0
        self._took: dict[str, list[float]] = {}
        self.made = list[Made]()

    @property
    def display(self) -> Display:
        """What shows it now."""
        if not self.tasks:
            self._shown = self._choose()
        return self._shown

    def say(self, line: str) -> None:
        """Show a line, made harmless."""
        with self._lock:
            self.display.say(one_line(line))

    def beat(self) -> bool:
        """Let time go by; return whether anything is under way."""
        with self._lock:
            if self.tasks:
                self.display.beat(self.tasks, self.clock())
            return bool(self.tasks)

    @contextmanager
    def progress(
        self, title: str, total: float | None = None, unit: str = "step", *, done: float = 0
    ) -> Iterator[Task]:
        """Show a piece of work for as long as it lasts; see `Task`."""
        task = Task(title, total, unit, done, self.clock(), self._moved)
        with self._lock:
            display, first = self.display, not self.tasks
            self.tasks.append(task)
        if first:
            self._opened(self)
        try:
            yield task
        finally:
            with self._lock:
                # What was begun inside it is over too: an exception may have left it open.
                while task in self.tasks:
                    display.closed(self.tasks.pop())

    def _moved(self, task: Task) -> None:
        with self._lock:
            if task in self.tasks:
                self.display.moved(self.tasks, self.clock())

    # ---- stages ----------------------------------------------------------------------------------

    def expect(self, names: Sequence[str]) -> None:
        """Learn which stages are to come, those that are finished already included; who knows better says so again."""
        self._coming, self._stages = Counter(map(kind, names)), self._number + len(names)

    def afresh(self) -> None:
        """Count stages from 1 again: another piece of work begins, in the same process."""
        self._coming, self._stages, self._number = Counter(), 0, 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage for as long as its making lasts, with a headline before and after it.

        A stage inside another one is a part of that: it has no headline, and no number.
        """
        if self._inside:
            with self.progress(name):
                yield
            return
        headline, began = self._headline(name), self.clock()
        self.say(" · ".join([headline, *self._estimates(name)]))
        self._inside += 1
        try:
            with self.progress(headline):
                yield
        finally:
            self._inside -= 1
        self._end(headline, Made(name, self.clock() - began))

    def _end(self, headline: str, made: Made) -> None:
        self.made.append(made)
        self._took.setdefault(kind(made.name), []).append(made.seconds)
        self.say(f"{headline} done in {duration(made.seconds)}")

    def elsewhere(self, made: Made) -> None:
        """Say that another process has made a stage."""
        self._end(self._headline(made.name), made)

    def mute(self) -> None:
        """Show nothing any more, for a process forked off: lock and tasks are its parent's, who does the speaking."""
        self._lock, self.tasks, self.made = threading.RLock(), [], []
        self._choose, self._opened, self._inside = Nothing, lambda board: None, 0

    def reused(self, name: str) -> None:
        """Say that a stage was found finished."""
        if not self._inside:
            self.say(f"{self._headline(name)} was finished before and is reused")

    def _headline(self, name: str) -> str:
        self._number += 1
        self._coming -= Counter([kind(name)])
        whole = f" of {max(self._stages, self._number)}" if self._stages else ""
        return f"stage {self._number}{whole}: {name}"

    def _estimates(self, name: str) -> list[str]:
        """Return how long this stage and the whole will take, by what their like took in this run; else nothing."""
        own = self._expected(name)
        rest = [self._expected(other) for other in self._coming.elements()]
        if own is None:
            return []
        if not self._stages:
            return [f"about {duration(own)}"]
        known = own + sum(seconds for seconds in rest if seconds is not None)
        least = "at least" if None in rest else "about"
        return [f"about {duration(own)}", f"whole run {least} {duration(known)} left"]

    def _expected(self, name: str) -> float | None:
        same = self._took.get(kind(name))
        if same is None and name.startswith("eval-"):  # evaluations are alike, whatever is evaluated
            same = [took for other, times in self._took.items() if other.startswith("eval-") for took in times]
        return fmean(same) if same else None
