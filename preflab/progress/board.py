"""What is being done at this moment: tasks inside tasks, here and in other processes, and the stages of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import NamedTuple, Protocol

from preflab.errors.terminal import one_line
from preflab.progress.task import Task
from preflab.progress.words import duration, in_figures, kind


class Lane(NamedTuple):
    """What one process is at.

    Attributes:
        title: the stage, or whatever else it is.
        began: seconds, when it began.
        tasks: those under way, each inside the one before it; of another process as it last told them, maybe none.
        stages: the stages of it that are not finished.
    """

    title: str
    began: float
    tasks: Sequence[Task] = ()
    stages: tuple[str, ...] = ()


class View(NamedTuple):
    """What there is to show of a board at one moment.

    Attributes:
        now: seconds, by the clock of all else.
        began: when the first stage did.
        done: stages that are over.
        whole: how many there are; 0 where nobody knows.
        lanes: what is under way.
        coming: names of the stages that nobody has begun.
        left: seconds that all the rest takes, by what the like took in this run; None where too little of it is known.
    """

    now: float
    began: float
    done: int
    whole: int
    lanes: Sequence[Lane]
    coming: Sequence[str]
    left: float | None


class Display(Protocol):
    """What shows a board."""

    def say(self, line: str) -> None:
        """Show a line that stays."""
        ...

    def moved(self, board: Board) -> None:
        """Hear that something has moved: often, so that most of the time there is nothing to do."""
        ...

    def beat(self, board: Board) -> None:
        """Show that time goes by: called about once a second while anything is under way."""
        ...

    def closed(self) -> None:
        """Hear that nothing is under way any more."""
        ...


class Made(NamedTuple):
    """A stage that was made, the seconds that it took, and the last figures that were shown of it."""

    name: str
    seconds: float
    figures: Mapping[str, float] = {}


class Board:
    """Tasks under way and stages to come, shown on a display.

    Args:
        display: gives the display; asked whenever nothing is under way.
        clock: seconds, monotonic.
        opened: is called when something begins where nothing was under way.

    Attributes:
        lock: held while anything changes or is shown.
        tasks: those of this process, each inside the one before it.
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
        self.lock = threading.RLock()
        self._lanes, self._size = dict[str, Lane](), 0  # of other processes, by the piece of work they are at
        self._coming = list[str]()
        self._stages = self._over = 0
        self._making: str | None = None
        self._began: float | None = None
        self._figures: Mapping[str, float] = {}
        self._took: dict[str, list[float]] = {}
        self.made = list[Made]()

    @property
    def display(self) -> Display:
        """What shows it now."""
        if not self._busy():
            self._shown = self._choose()
        return self._shown

    def say(self, line: str) -> None:
        """Show a line, made harmless."""
        with self.lock:
            self.display.say(one_line(line))

    def beat(self) -> bool:
        """Let time go by; return whether anything is under way."""
        with self.lock:
            if self._busy():
                self._shown.beat(self)
            return self._busy()

    @contextmanager
    def progress(
        self, title: str, total: float | None = None, unit: str = "step", *, done: float = 0
    ) -> Iterator[Task]:
        """Show a piece of work for as long as it lasts; see `Task`."""
        task = Task(title, total, unit, done, self.clock(), self._moved)
        with self._busier():
            self.tasks.append(task)
        try:
            yield task
        finally:
            with self._idler():
                # What was begun inside it is over too: an exception may have left it open.
                while task in self.tasks:
                    self.tasks.pop()

    def leave(self) -> None:
        """Show nothing of what an exception has left open."""
        with self._idler():
            self.tasks.clear()
            self._lanes.clear()

    def mute(self, display: Callable[[], Display]) -> None:
        """Show all else on another display, in a process forked off: tasks and made stages are its parent's."""
        self.lock, self.tasks, self.made = threading.RLock(), [], []
        self._lanes, self._size, self._making = {}, 0, None
        self._choose, self._opened = display, lambda board: None

    def _busy(self) -> bool:
        return bool(self.tasks or self._lanes)

    @contextmanager
    def _busier(self) -> Iterator[None]:
        """Let something begin in the block."""
        with self.lock:
            first = not self._busy()
            self._shown = self.display
            yield
        if first:
            self._opened(self)

    @contextmanager
    def _idler(self) -> Iterator[None]:
        """Let something end in the block."""
        with self.lock:
            busy = self._busy()
            yield
            if busy and not self._busy():
                self._shown.closed()

    def _moved(self, task: Task) -> None:
        with self.lock:
            if task in self.tasks:
                self._figures = task.figures or self._figures
                self._shown.moved(self)

    # ---- stages ----------------------------------------------------------------------------------

    def expect(self, names: Sequence[str]) -> None:
        """Learn which stages are to come, those that are finished already included; who knows better says so again."""
        with self.lock:
            self._coming, self._stages = list(names), self._over + len(names)

    def afresh(self) -> None:
        """Count stages from 1 again: another piece of work begins, in the same process."""
        with self.lock:
            self._coming, self._stages, self._over, self._began = [], 0, 0, None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage for as long as its making lasts, and say at its end how long that was.

        A stage inside another one is a part of that, and has no line.
        """
        if self._making is not None:
            with self.progress(name):
                yield
            return
        began, self._figures = self.clock(), {}
        self._began = began if self._began is None else self._began
        self._making = name
        try:
            with self.progress(name):
                yield
        finally:
            self._making = None
        self.elsewhere(Made(name, self.clock() - began, self._figures))

    def elsewhere(self, made: Made) -> None:
        """Say that a stage was made, by whomever."""
        with self.lock:
            self.made.append(made)
            self._took.setdefault(kind(made.name), []).append(made.seconds)
            took = ", ".join([duration(made.seconds), *in_figures(made.figures)])
            self.say(f"{self._headline(made.name)} done in {took}")

    def reused(self, name: str) -> None:
        """Say that a stage was found finished."""
        if self._making is None:
            with self.lock:
                self.say(f"{self._headline(name)} was finished before and is reused")

    def _headline(self, name: str) -> str:
        """Count a stage that is over, and return what is said of it first."""
        self._over += 1
        # At which step a snapshot lies is known when it is there.
        same = [other for other in self._coming if kind(other) == kind(name)]
        if same:
            self._coming.remove(name if name in same else same[0])
        whole = f" of {max(self._stages, self._over)}" if self._stages else ""
        return f"stage {self._over}{whole}: {name}"

    # ---- other processes -------------------------------------------------------------------------

    @contextmanager
    def at_work(self, size: int) -> Iterator[None]:
        """Let other processes, so many at a time, do the work in the block."""
        self._size = size
        self._began = self.clock() if self._began is None else self._began
        try:
            yield
        finally:
            self._size = 0
            with self._idler():
                self._lanes.clear()

    def begun(self, piece: str, stages: tuple[str, ...]) -> None:
        """Show that one of them has begun a piece of work."""
        if self._size:
            with self._busier():
                self._lanes[piece] = Lane(one_line(piece, 80), self.clock(), (), stages)

    def heard(self, piece: str, tasks: Sequence[Task]) -> None:
        """Show what one of them tells of its piece."""
        with self.lock:
            if piece in self._lanes:
                self._lanes[piece] = self._lanes[piece]._replace(tasks=tasks)
                self._shown.moved(self)

    def ended(self, piece: str) -> None:
        """Show that a piece is over."""
        with self._idler():
            self._lanes.pop(piece, None)

    # ---- all of it -------------------------------------------------------------------------------

    def view(self) -> View:
        """Return what there is to show."""
        now, lanes = self.clock(), list(self._lanes.values())
        if self.tasks:
            making, first = self._making, self.tasks[0]
            lanes.insert(0, Lane(first.title, first.began, list(self.tasks), () if making is None else (making,)))
        coming, begun = list(self._coming), [stage for lane in lanes for stage in lane.stages]
        for stage in begun:
            if stage in coming:
                coming.remove(stage)
        whole = max(self._stages, self._over) if self._stages else 0
        began = now if self._began is None else self._began
        return View(now, began, self._over, whole, lanes, coming, self._left(lanes, coming, now))

    def _left(self, lanes: Sequence[Lane], coming: Sequence[str], now: float) -> float | None:
        """Return the seconds that all the rest will take; None where most of it is of a new kind."""
        whole = [self._expected(stage) for stage in coming]
        known = [seconds for seconds in whole if seconds is not None]
        if not self._stages or len(whole) > 2 * len(known):
            return None
        under_way = [seconds for lane in lanes if (seconds := self._rest(lane, now)) is not None]
        if len(under_way) < len(lanes):
            return None
        # What is not known is taken for what the others take on average.
        rest = len(whole) * fmean(known) if known else 0.0
        return max([(sum(under_way) + rest) / max(1, self._size), *under_way])

    def _rest(self, lane: Lane, now: float) -> float | None:
        """Return the seconds that a lane has left: by its own pace, else by what its like took."""
        by_pace = next((left for task in lane.tasks if (left := task.left(now)) is not None), None)
        if by_pace is not None:
            return by_pace
        expected = [seconds for stage in lane.stages if (seconds := self._expected(stage)) is not None]
        return max(0.0, sum(expected) - (now - lane.began)) if expected else None

    def _expected(self, name: str) -> float | None:
        same = self._took.get(kind(name))
        if same is None and name.startswith("eval-"):  # evaluations are alike, whatever is evaluated
            same = [took for other, times in self._took.items() if other.startswith("eval-") for took in times]
        return fmean(same) if same else None
