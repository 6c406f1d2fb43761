"""Pieces built in processes started anew, which may have a GPU each: one that uses CUDA cannot be forked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from preflab.execution.anew import Opens, Orders
from preflab.execution.executing import Report
from preflab.execution.graph import Piece
from preflab.progress import heard

VISIBLE = "CUDA_VISIBLE_DEVICES"


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    pipe: Connection
    place: int


class Spawned:
    """Processes that live as long as the crew, as opening libraries and data takes seconds; one that dies is replaced.

    Args:
        opens: joins the run and makes the graph, in each of them.
        size: how many.
        devices: the GPUs, one for each, as ``CUDA_VISIBLE_DEVICES`` names them; none: they work on the CPU.
        threads: CPU threads of each.
    """

    tries, gives_back = 2, True

    def __init__(self, opens: Opens, size: int, devices: Sequence[str] = (), threads: int = 1) -> None:
        self.size, self.devices, self.threads = size, devices, threads
        self._orders = Orders.here(opens, threads)
        self._idle, self._busy = dict[int, _Worker](), dict[str, _Worker]()

    def __enter__(self) -> Spawned:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._busy.values(), *self._idle.values()):
            worker.process.kill()  # stages are finished or absent, whenever that comes
            worker.process.wait()
            worker.pipe.close()
        self._idle, self._busy = {}, {}

    def begin(self, piece: Piece) -> None:
        """Ask a worker that has nothing to do, starting it if it is not there."""
        taken = {worker.place for worker in self._busy.values()}
        place = min(set(range(self.size)) - taken, key=lambda place: (place not in self._idle, place))
        worker = self._idle.pop(place, None) or self._started(place)
        self._busy[piece.name] = worker
        try:
            worker.pipe.send(piece.name)
        except OSError:  # it died idle, which `ended` finds out
            pass

    def ended(self) -> Iterator[tuple[str, Report | None]]:
        """Wait until some tell something; yield names and reports of those that have ended: None of one that died."""
        ready = wait([worker.pipe for worker in self._busy.values()])
        for name, worker in list(self._busy.items()):
            if worker.pipe not in ready:
                continue
            try:
                report = worker.pipe.recv()
            except (EOFError, OSError):
                report = None
            if report is not None and not isinstance(report, Report):
                heard(name, report)
                continue
            del self._busy[name]
            if report is not None:
                self._idle[worker.place] = worker
            else:
                worker.process.kill()
                worker.process.wait()
                worker.pipe.close()
            yield name, report

    def environment(self, place: int) -> dict[str, str]:
        """Return what the worker of a place is started with: its GPU, its threads, and what this process imports."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        threads = str(self.threads)
        found = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads}
        return {**found, VISIBLE: self.devices[place]} if self.devices else found

    def _started(self, place: int) -> _Worker:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "preflab.execution.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, env=self.environment(place), pass_fds=[theirs.fileno()])
        theirs.close()
        ours.send(self._orders)
        return _Worker(process, ours, place)


def visible_devices() -> list[str]:
    """Return the GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` names them; none where there is no CUDA."""
    import torch

    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named[:count] or [str(number) for number in range(count)]
