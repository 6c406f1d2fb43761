"""The board of this process: shown on stderr or in a notebook, kept alive by a thread while anything is under way."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TypeVar

from preflab import ranks
from preflab.errors import speaking, terminal
from preflab.progress.board import Board, Display, Made
from preflab.progress.lines import Lines, Nothing, Told
from preflab.progress.live import Live, can_draw
from preflab.progress.notebook import Cell, in_notebook
from preflab.progress.task import Task

T = TypeVar("T")

BEAT = 1.0  # seconds


def _display() -> Display:
    if not ranks.first() or speaking.is_quiet():
        return _NOTHING
    if in_notebook():
        return _CELL
    return _LIVE if can_draw(os.environ) else _LINES


def _write(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Heart:
    """A thread that shows, as long as anything is under way, that time goes by: one step may take minutes."""

    def __init__(self) -> None:
        self._lock, self._beats = threading.Lock(), False

    def start(self, board: Board) -> None:
        """Beat, unless it does already, until nothing is under way."""
        with self._lock:
            if not self._beats:
                self._beats = True
                threading.Thread(target=self._beat, args=(board,), name="preflab-progress", daemon=True).start()

    def _beat(self, board: Board) -> None:
        while True:
            with self._lock:
                try:
                    self._beats = board.beat()
                except (OSError, ValueError):  # stderr is gone, and with it who could be told
                    self._beats = False
                if not self._beats:
                    return
            time.sleep(BEAT)


_LIVE, _CELL, _NOTHING = Live(), Cell(), Nothing()
_LINES = Lines(_write, time.monotonic, lambda: time.strftime("%H:%M:%S"))
_BOARD = Board(_display, time.monotonic, Heart().start)

expect, progress, say, stage, reused = _BOARD.expect, _BOARD.progress, _BOARD.say, _BOARD.stage, _BOARD.reused
afresh, elsewhere = _BOARD.afresh, _BOARD.elsewhere
at_work, begun, heard, ended = _BOARD.at_work, _BOARD.begun, _BOARD.heard, _BOARD.ended

terminal.before_a_message(_BOARD.leave)


def _forked() -> None:
    """Leave the display to the process that this one was forked off."""
    _BOARD.lock.release()
    _LIVE.abandon()


# Nobody draws while a process is forked off: it would wait for ever for locks that are held here.
os.register_at_fork(
    before=lambda: _BOARD.lock.acquire(), after_in_parent=lambda: _BOARD.lock.release(), after_in_child=_forked
)


def mute(tell: Callable[[Sequence[Task]], object] | None = None) -> None:
    """Show nothing any more, in a process made to work for another one.

    Args:
        tell: tells that one, which does the speaking, what is under way.
    """
    display = _NOTHING if tell is None else Told(tell, time.monotonic)
    _BOARD.mute(lambda: display)


def made() -> list[Made]:
    """Return the stages that this process has made, in order."""
    return list(_BOARD.made)


def tracked(items: Iterable[T], title: str, unit: str, total: float | None = None) -> Iterator[T]:
    """Yield items, and show how many of them have been dealt with.

    Args:
        items: what is gone through.
        title: what is done with them.
        unit: what one is, in the singular.
        total: how many there are, where they do not say.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(title, total, unit) as task:
        for item in items:
            yield item
            task.advance()
