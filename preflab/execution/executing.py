"""A graph executed: every piece built as soon as what it needs is there, by whoever is given.

A stage is finished or absent, and named by what decides it: pieces build their stages, and whoever asks for these
afterwards finds them. Nothing else comes back, so that a piece which dies costs time alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from preflab.disk.attempts import tidy
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.graph import Graph, Piece
from preflab.progress import Made, at_work, begun, elsewhere, ended, expect, listed

logger = logging.getLogger(__name__)


class Report(NamedTuple):
    """What there is to say of a piece at its end.

    Attributes:
        made: its stages, for the lines about them, where another process made them.
        built: their folders.
        logged: what it would have logged.
        error: what ended it; None where it came to its end.
        trace: the traceback of that.
    """

    made: Sequence[Made] = ()
    built: Collection[Path] = ()
    logged: Sequence[logging.LogRecord] = ()
    error: BaseException | None = None
    trace: str = ""


class Elsewhere(Exception):  # noqa: N818 (it is where an error comes from)
    """The traceback, as text, of an error in another process."""


class Crew(Protocol):
    """Whoever builds pieces, for as long as the block that it is used in; nothing of it outlives that.

    Attributes:
        size: how many pieces at a time.
        tries: how often a piece is begun whose process dies.
        gives_back: whether what still dies is left to this process, which then builds it itself.
    """

    size: int
    tries: int
    gives_back: bool

    def begin(self, piece: Piece) -> None:
        """Begin to build a piece; no more than `size` are under way."""
        ...

    def ended(self) -> Iterator[tuple[str, Report | None]]:
        """Wait until some have ended; yield their names and reports: None of one whose process died."""
        ...

    def __enter__(self) -> Crew: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Here:
    """Builds in this process, one after the other."""

    size, tries, gives_back = 1, 1, True

    def begin(self, piece: Piece) -> None:
        """Take the next piece."""
        self._next = piece

    def ended(self) -> Iterator[tuple[str, Report | None]]:
        """Build it; what ends it is raised as it is."""
        self._next.build()
        yield self._next.name, Report()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


def execute(run: Run, graph: Graph, crew: Crew) -> None:
    """Build what a graph is made of.

    A piece whose process dies is said, and begun again as often as the crew does that; then it is left to whoever asks
    for its stages, with those that need it.

    Args:
        run: the run whose stages they build.
        graph: the pieces.
        crew: builds them.

    Raises:
        BaseException: what ended a piece; the others are stopped.
    """
    said, done, times, waiting = set[tuple[str, str]](), set[str](), Counter[str](), list(graph)
    under_way = 0
    expect(graph.stages)
    with nullcontext() if isinstance(crew, Here) else at_work(crew.size), crew:
        while waiting or under_way:
            ready = [piece for piece in waiting if done.issuperset(piece.needs)]
            for piece in ready[: crew.size - under_way]:
                waiting.remove(piece)
                crew.begin(piece)
                begun(piece.name, piece.stages)
                times[piece.name] += 1
                under_way += 1
            if not under_way:
                logger.warning("%s: left for later, as what it needs is not there", listed([p.name for p in waiting]))
                return
            for name, report in crew.ended():
                under_way -= 1
                ended(name)
                if report is None:
                    _died(name, crew, times[name])
                    waiting[:0] = [graph[name]] if times[name] < crew.tries else []
                    continue
                _told(run, name, report, said)
                done.add(name)
    tidy(run.stages)


def _died(name: str, crew: Crew, times: int) -> None:
    """Say that the process of a piece died, and what comes of it.

    Raises:
        UserError: if nobody tries again.
    """
    killed = f"the process of {name} was killed, by the system if memory ran out"
    if times < crew.tries:
        logger.warning("%s; it is begun again", killed)
    elif crew.gives_back:
        logger.warning("%s; it is done again later", killed)
    else:
        raise UserError(f"{killed}, {times} times; what it had sealed by then is kept: run the same command again")


def _told(run: Run, name: str, report: Report, said: set[tuple[str, str]]) -> None:
    """Say what a piece has made and logged, each line once; raise what ended it."""
    run.known.update(report.built)  # what it found is said by who asks for it
    for one in report.made:
        elsewhere(one)
    for record in report.logged:
        if (line := (record.name, record.getMessage())) not in said:
            said.add(line)
            logging.getLogger(record.name).handle(record)
    if report.error is not None:
        raise report.error from Elsewhere(f"in the process of {name}:\n{report.trace}")
