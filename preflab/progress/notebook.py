"""In a notebook: one line below the cell that runs, written over as work goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from preflab.errors.terminal import shortened
from preflab.progress.task import Task
from preflab.progress.words import all_of

LONGEST = 160  # characters, so that it stays one line


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this; whoever started none has not imported it."""
    if "ipykernel" not in sys.modules:
        return False
    from ipykernel.zmqshell import ZMQInteractiveShell
    from IPython import get_ipython

    return isinstance(get_ipython(), ZMQInteractiveShell)


def _cell() -> tuple[object, Callable[[str], Callable[[str], None]]]:
    """Return what is another object in another cell, and what shows a line there and gives what writes over it."""
    from IPython import get_ipython
    from IPython.display import display

    def show(line: str) -> Callable[[str], None]:
        handle: Any = display({"text/plain": line}, raw=True, display_id=True)
        return lambda other: handle.update({"text/plain": other}, raw=True)

    return get_ipython().execution_count, show


class Live:
    """The latest line takes the place of the one before.

    Args:
        cell: says where lines are shown, as `_cell` does.
    """

    def __init__(self, cell: Callable[[], tuple[object, Callable[[str], Callable[[str], None]]]] = _cell) -> None:
        self._cell = cell
        self._at: object = None
        self._line = ""
        self._write: Callable[[str], object] = str

    def say(self, line: str) -> None:
        """Show a line until the next one."""
        line = shortened(line, LONGEST)
        at, show = self._cell()
        if at != self._at:
            self._at, self._write = at, show(line)
        elif line != self._line:
            self._write(line)
        self._line = line

    def moved(self, tasks: Sequence[Task], now: float) -> None:
        """Wait for the next beat: a page that is told of every step stands still."""

    def beat(self, tasks: Sequence[Task], now: float) -> None:
        """Say how far everything is."""
        if tasks:
            self.say(all_of(tasks, now))

    def closed(self, task: Task) -> None:
        """Say nothing: what follows has a line of its own."""
