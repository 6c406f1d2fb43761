"""The process that a `Spawned` crew starts: ``python -m preflab.execution.worker DESCRIPTOR``."""

from __future__ import annotations

import os
import queue
import sys
import threading
from multiprocessing.connection import Connection

from preflab.execution.anew import Workplace


def main(descriptor: int) -> None:
    """Hear what there is to do, and answer with a report of each piece, until whoever asks is gone."""
    pipe, asked = Connection(descriptor), queue.SimpleQueue[str]()
    place = Workplace(pipe.recv())
    threading.Thread(target=_hear, args=(pipe, asked), daemon=True).start()
    while True:
        pipe.send(place.build(asked.get(), pipe.send))


def _hear(pipe: Connection, asked: queue.SimpleQueue[str]) -> None:
    """Take what is asked for; end this process with the one that asks, which holds the run's folder."""
    while True:
        try:
            asked.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
