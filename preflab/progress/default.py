"""The board of this process: shown on stderr or in a notebook, kept alive by a thread while anything is under way."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from preflab import ranks
from preflab.progress.bars import Bars
from preflab.progress.board import Board, Display, Lines, Made, Nothing
from preflab.progress.notebook import Live, in_notebook

T = TypeVar("T")

BEAT = 1.0  # seconds


def _display() -> Display:
    if not ranks.first():
        return Nothing()
    if in_notebook():
        return _LIVE
    return _BARS if sys.stderr.isatty() else _LINES


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


_BARS, _LIVE, _LINES = Bars(), Live(), Lines(_write, time.monotonic, lambda: time.strftime("%H:%M:%S"))
_BOARD = Board(_display, time.monotonic, Heart().start)

expect, progress, say, stage, reused = _BOARD.expect, _BOARD.progress, _BOARD.say, _BOARD.stage, _BOARD.reused
elsewhere, mute, afresh = _BOARD.elsewhere, _BOARD.mute, _BOARD.afresh


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
