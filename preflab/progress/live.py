"""One live display in a terminal: how much of the run is done, what is under way, what comes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from preflab.progress.board import Board, Lane, View
from preflab.progress.task import Task
from preflab.progress.words import all_of, counted, duration, in_figures, listed, worth_showing

if TYPE_CHECKING:
    from rich.text import Text

DELAY = 0.5
"""Seconds before anything is drawn: what is over by then would only flicker."""

PERIOD = 0.25
"""Seconds between two drawings."""

SIZE = 80, 24  # of a terminal that does not say
WIDEST = 120
LENGTH = range(8, 25)
"""Characters of a bar, a quarter of the width; where that is less, there is none."""

LASTING = 1.0
"""Seconds after which work inside other work is shown beside that."""

BARS = {True: "━─", False: "#-"}
"""What bars are made of, by whether the terminal takes more than ASCII."""

SHOWN_TO_COME = 3
NO_CURSOR = ("", "dumb", "unknown")
"""Kinds of terminal, as TERM names them, in which nothing can be drawn twice in one place."""


def can_draw(environment: Mapping[str, str]) -> bool:
    """Whether stderr is a terminal in which a display can be drawn anew."""
    return sys.stderr.isatty() and environment.get("TERM", "") not in NO_CURSOR


class Live:
    """Draws with rich; what is said, and what anybody else writes to stderr by Python, stands above it."""

    def __init__(self) -> None:
        self._live: Any = None
        self._streams = sys.stdout, sys.stderr
        self._drawn = 0.0

    def say(self, line: str) -> None:
        """Write a line above."""
        print(line, file=sys.stderr, flush=True)

    def moved(self, board: Board) -> None:
        """Draw, a few times a second."""
        if board.clock() - self._drawn >= PERIOD:
            self.beat(board)

    def beat(self, board: Board) -> None:
        """Draw."""
        view = board.view()
        self._drawn = view.now
        if self._live is None and view.now - min(lane.began for lane in view.lanes) < DELAY:
            return
        if self._live is None:
            self._streams = sys.stdout, sys.stderr
            self._live = _opened()
        width, height = _size()
        self._live.console.size = width, height
        bar = BARS[(self._streams[1].encoding or "").lower().startswith("utf")]
        self._live.update(frame(view, min(width - 1, WIDEST), height - 1, bar), refresh=True)

    def closed(self) -> None:
        """Take it away."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def abandon(self) -> None:
        """Leave it to the process that this one was forked off."""
        if self._live is not None:
            self._live = None
            sys.stdout, sys.stderr = self._streams


def _opened() -> Any:
    from rich import live
    from rich.console import Console

    console = Console(file=sys.stderr, force_terminal=True, highlight=False, markup=False, emoji=False)
    # Into a file, stdout goes on its own.
    drawn = live.Live(console=console, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty())
    drawn.start()
    return drawn


def _size() -> tuple[int, int]:
    """Return columns and rows of the terminal at this moment, whatever the environment said at the beginning."""
    try:
        width, height = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        width, height = 0, 0
    return width or SIZE[0], height or SIZE[1]


# ---- what is drawn -----------------------------------------------------------------------------------


def frame(view: View, width: int, height: int, bar: str = BARS[True]) -> Any:
    """Return what is drawn: lines that are no wider, and no more of them.

    Args:
        view: what there is to show.
        width: in columns.
        height: in rows.
        bar: what stands for the part that is done, and for the rest.
    """
    from rich.console import Group

    lines = [_run(view, width, bar)] if view.whole else []
    room = max(1, height - len(lines) - bool(view.coming))
    shown = list(view.lanes[: room if len(view.lanes) <= room else room - 1])
    longest = max([len(lane.title) for lane in shown], default=0)
    lines += [_lane(lane, view.now, width, min(longest, width // 3), bar) for lane in shown]
    if len(shown) < len(view.lanes):
        lines.append(_plain(f"  and {len(view.lanes) - len(shown)} more", width))
    if view.coming:
        lines.append(_plain(f"  to come: {_some(view.coming)}", width, "dim"))
    return Group(*lines[:height])


def _run(view: View, width: int, bar: str) -> Text:
    """Return the line about the whole run."""
    parts = [f"{view.done} of {view.whole} stages", f"{duration(view.now - view.began)} so far"]
    if view.left is not None:
        parts.append(f"about {duration(view.left)} left")
    return _with_bar("", view.done / view.whole, parts, width, bar)


def _lane(lane: Lane, now: float, width: int, column: int, bar: str) -> Text:
    """Return the line about what one process does."""
    tasks = worth_showing([task for task in lane.tasks if counted(task) or task.title != lane.title])
    main = next((task for task in tasks if task.total), None)
    title = f"  {_fitted(lane.title, column)}"
    if main is None:
        said = all_of(tasks, now) if tasks else f"for {duration(now - lane.began)}"
        return _plain(f"{title}  {said}", width)
    inner = [task for task in tasks[tasks.index(main) + 1 :] if counted(task) and now - task.began >= LASTING]
    outer = [task.title for task in tasks[: tasks.index(main)]] + [main.title] * (main.title != lane.title)
    left = main.left(now)
    parts = [
        counted(main),
        *([] if left is None else [f"{duration(left)} left"]),
        *in_figures(main.figures),
        *outer[-1:],
        *(f"{task.title}: {counted(task)}" for task in inner[-1:]),
    ]
    return _with_bar(title, _share(main), parts, width, bar)


def _share(task: Task) -> float:
    return min(1.0, task.done / task.total) if task.total else 0.0


def _with_bar(title: str, share: float, parts: Sequence[str], width: int, bar: str) -> Text:
    """Return a title, a bar and the parts, the first first, that there is room for."""
    from rich.cells import cell_len
    from rich.text import Text

    line = Text(f"{title}  " if title else "", no_wrap=True, overflow="ellipsis")
    if (size := min(LENGTH[-1], width // 4)) >= LENGTH.start:
        done = round(share * size)
        line.append(bar[0] * done, style="green")
        line.append(bar[1] * (size - done), style="dim")
        line.append("  ")
    said, *others = parts
    for part in others:
        if line.cell_len + cell_len(f"{said}  {part}") <= width:
            said += f"  {part}"
    line.append(said)
    line.truncate(width, overflow="ellipsis")
    return line


def _plain(text: str, width: int, style: str = "") -> Text:
    from rich.text import Text

    line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def _fitted(title: str, column: int) -> str:
    from rich.text import Text

    line = Text(title)
    line.truncate(max(8, column), overflow="ellipsis", pad=True)
    return line.plain


def _some(names: Sequence[str]) -> str:
    if len(names) <= SHOWN_TO_COME + 1:
        return listed(names)
    return f"{', '.join(names[:SHOWN_TO_COME])} and {len(names) - SHOWN_TO_COME} more"
