"""What a process says of a piece that it builds for another one: nothing on its own, all of it in a report."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from preflab.disk.stages import Run
from preflab.execution.executing import Report
from preflab.progress import Task, made, mute

Tells = Callable[[Sequence[Task]], object]
"""Tells another process which tasks are under way."""


def reported(run: Run, build: Callable[[], object], tell: Tells | None = None) -> Report:
    """Build a piece in a process that was made for it, which is silent from here on; return what there is to say.

    Args:
        run: the run whose stages it builds.
        build: builds them; whatever it raises goes into the report.
        tell: is told now and then how far that is; None: nobody wants to know.
    """
    mute(tell)
    run.built, run.known = set(), set()
    with _kept_log() as logged:
        error, trace = None, ""
        try:
            build()
        except BaseException as ended:
            error, trace = _sendable(ended), traceback.format_exc()
    return Report(made(), run.built, logged, error, trace)


@contextmanager
def _kept_log() -> Iterator[list[logging.LogRecord]]:
    """Keep what is logged, as text, in place of what this process would do with it."""
    kept: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args, record.exc_info = record.getMessage(), None, None
            kept.append(record)

    logging.getLogger().handlers[:] = [Keeping()]
    yield kept


def _sendable(error: BaseException) -> BaseException:
    """Return an error as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))  # our own, a moment ago
    except Exception:  # whatever somebody's exception does when it is written or read
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
