"""Pieces of a run made side by side, each in a process forked off this one, on one CPU thread.

A stage is finished or absent, and named by what decides it: pieces build their stages ahead, and whoever asks for these
afterwards finds them. Nothing else comes back, so that a piece which dies costs time alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from preflab.disk.stages import Run
from preflab.progress import Made, elsewhere, listed, made, mute, progress

logger = logging.getLogger(__name__)


class Piece(NamedTuple):
    """A part of the work.

    Attributes:
        name: for what is shown, and for others to need it.
        build: builds stages of the run; what it returns is dropped.
        needs: the pieces whose stages it stands on.
    """

    name: str
    build: Callable[[], object]
    needs: tuple[str, ...] = ()


class Report(NamedTuple):
    """What a piece's process sends at its end.

    Attributes:
        made: its stages, for the lines about them.
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


def build_side_by_side(run: Run, pieces: Sequence[Piece], workers: int) -> None:
    """Build pieces, `workers` at a time, each as soon as what it needs is there.

    A piece whose process dies is said and left to whoever asks for its stages, with those that need it.

    Args:
        run: the run whose stages they build.
        pieces: in the order in which they are begun, where they can be.
        workers: how many at a time.

    Raises:
        ValueError: if a piece needs one that is not there before it.
        BaseException: what ended a piece; the others are stopped.
    """
    for number, piece in enumerate(pieces):
        if missing := set(piece.needs) - {other.name for other in pieces[:number]}:
            raise ValueError(f"piece {piece.name!r} needs {min(missing)!r}, which is none before it")
    said, done, waiting = set[tuple[str, str]](), set[str](), list(pieces)
    with progress(f"{workers} stages side by side", total=len(pieces), unit="piece") as task, _Crew(run) as crew:
        while waiting or crew.members:
            ready = [piece for piece in waiting if done.issuperset(piece.needs)]
            for piece in ready[: workers - len(crew.members)]:
                waiting.remove(piece)
                crew.begin(piece)
            if not crew.members:
                logger.warning("%s: left for later, as what it needs is not there", listed([p.name for p in waiting]))
                return
            for name, report in crew.ended():
                _told(run, name, report, said)
                done |= {name} if report else set()
                task.advance()


class _Member(NamedTuple):
    process: Any
    reports: Connection


class _Crew:
    """The processes at work; none of them outlives this one, or the block that it is used in."""

    def __init__(self, run: Run) -> None:
        self.run, self.members = run, dict[str, _Member]()

    def __enter__(self) -> _Crew:
        # Nothing is ever written: whoever reads hears of the end of the only one that could.
        self.lifeline = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.process.kill()  # stages are finished or absent, whenever that comes
            member.process.join()
        for end in self.lifeline:
            os.close(end)

    def begin(self, piece: Piece) -> None:
        """Fork a process off that builds a piece."""
        ours, theirs = multiprocessing.Pipe(duplex=False)
        args = (self.run, piece, theirs, self.lifeline)
        process = multiprocessing.get_context("fork").Process(target=_work, args=args, name=piece.name)
        process.start()
        theirs.close()
        self.members[piece.name] = _Member(process, ours)

    def ended(self) -> Iterator[tuple[str, Report | None]]:
        """Wait until some have ended; yield their names and reports: None of one that died."""
        ready = wait([member.reports for member in self.members.values()])
        for name, member in list(self.members.items()):
            if member.reports in ready:
                try:
                    report = member.reports.recv()
                except EOFError:
                    report = None
                member.process.join()
                del self.members[name]
                yield name, report


def _told(run: Run, name: str, report: Report | None, said: set[tuple[str, str]]) -> None:
    """Say what a piece has made and logged, each line once; raise what ended it."""
    if report is None:
        logger.warning("the process of %s was killed, by the system if memory ran out; it is done again later", name)
        return
    run.known.update(report.built)  # what it found is said by who asks for it
    for one in report.made:
        elsewhere(one)
    for record in report.logged:
        if (line := (record.name, record.getMessage())) not in said:
            said.add(line)
            logging.getLogger(record.name).handle(record)
    if report.error is not None:
        raise report.error from Elsewhere(f"in the process of {name}:\n{report.trace}")


# ---- in the process of a piece -------------------------------------------------------------------


def _work(run: Run, piece: Piece, reports: Connection, lifeline: tuple[int, int]) -> None:
    import torch

    os.close(lifeline[1])
    threading.Thread(target=_watch, args=(lifeline[0],), daemon=True).start()
    mute()
    run.built, run.known = set(), set()
    # The parent's threads are not here, and OpenMP would wait for them.
    torch.set_num_threads(1)
    with _kept_log() as logged:
        error, trace = None, ""
        try:
            piece.build()
        except BaseException as ended:
            error, trace = _sendable(ended), traceback.format_exc()
    reports.send(Report(made(), run.built, logged, error, trace))


def _watch(lifeline: int) -> None:
    """End this process with its parent, which holds the run's folder."""
    os.read(lifeline, 1)
    os._exit(1)


@contextmanager
def _kept_log() -> Iterator[list[logging.LogRecord]]:
    """Keep what is logged, as text, in place of what the parent does with it."""
    kept: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args, record.exc_info = record.getMessage(), None, None
            kept.append(record)

    logging.getLogger().handlers[:] = [Keeping()]
    yield kept


def _sendable(error: BaseException) -> BaseException:
    """Return an error as another process can read it."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # our own, a moment ago
    except Exception:  # whatever somebody's exception does when it is written or read
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
