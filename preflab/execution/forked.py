"""Pieces built in processes forked off this one, each on one CPU thread."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from preflab.disk.stages import Run
from preflab.execution.executing import Report
from preflab.execution.graph import Piece
from preflab.execution.reporting import reported
from preflab.progress import heard


class _Member(NamedTuple):
    process: Any
    reports: Connection


class Forked:
    """The processes at work, one for each piece; none of them outlives this one.

    Args:
        run: the run whose stages they build.
        size: how many at a time.
    """

    tries, gives_back = 1, True

    def __init__(self, run: Run, size: int) -> None:
        self.run, self.size, self.members = run, size, dict[str, _Member]()

    def __enter__(self) -> Forked:
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
        """Wait until some tell something; yield names and reports of those that have ended: None of one that died."""
        ready = wait([member.reports for member in self.members.values()])
        for name, member in list(self.members.items()):
            if member.reports in ready:
                try:
                    report = member.reports.recv()
                except EOFError:
                    report = None
                if report is not None and not isinstance(report, Report):
                    heard(name, report)
                    continue
                member.process.join()
                del self.members[name]
                yield name, report


def _work(run: Run, piece: Piece, reports: Connection, lifeline: tuple[int, int]) -> None:
    """Build a piece in the process forked off for it."""
    import torch

    os.close(lifeline[1])
    threading.Thread(target=_watch, args=(lifeline[0],), daemon=True).start()
    # The parent's threads are not here, and OpenMP would wait for them.
    torch.set_num_threads(1)
    reports.send(reported(run, piece.build, reports.send))


def _watch(lifeline: int) -> None:
    """End this process with its parent, which holds the run's folder."""
    os.read(lifeline, 1)
    os._exit(1)
