"""How a recipe ends: whatever happens is answered in one line, with a status."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preflab import ranks
from preflab.errors import PluginError, Shown, UserError, crash, speaking, terminal


class Terminated(KeyboardInterrupt):  # noqa: N818: it is no error
    """SIGTERM, which ends a recipe as Ctrl-C does."""


INTERRUPTS = (KeyboardInterrupt, Terminated)

PATIENCE = 2.0  # seconds

"""What only a person or the system raises; subclasses are some plug-in's own."""

OF_THE_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)

"""What is wrong with a path that a person gave, rather than with what is done there."""


def run_recipe(main: Callable[[], int | None]) -> None:
    """Run a recipe's ``main`` and leave with its status: whatever happens is answered in one line.

    ====================================  ======  ====================================================
    what happened                         status  said
    ====================================  ======  ====================================================
    a mistake (`UserError`)               2       what is wrong, where, what to do
    no memory, no space, no such path     2       what to make smaller, free or change
    Ctrl-C, SIGTERM                       130/143 how to go on
    anything else                         1       where the traceback lies (see `preflab.errors.crash`)
    ====================================  ======  ====================================================

    With ``PREFLAB_DEBUG=1`` the traceback is printed besides; after ``--json`` the same message is the JSON on stdout.
    """
    # Python puts a script's own folder first, where recipes/evaluate.py would stand for the evaluate library.
    folder = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    terminal.lasting_streams()
    terminal.log_to_stderr()
    terminal.no_bars()
    if not ranks.first():
        terminal.leave_it_to_the_first()
    elif speaking.asks_for_json(sys.argv[1:]):
        speaking.answer_in_json()
    with _signals_and_threads():
        try:
            status = _finished(main)
            speaking.give()
            sys.stdout.flush()  # so that a full disk under `> file` is found while it can still be said
        except ranks.Dismissed:
            status = 0
        except BaseException as error:
            status, message = _answer(error)
            speaking.failed(message, status)
    if status:
        sys.exit(status)


def _finished(main: Callable[[], int | None]) -> int:
    """Run ``main`` to its end, or to where ``--help`` ends it; return its status."""
    try:
        return main() or 0
    except SystemExit as left:
        if not isinstance(left, Shown) and not _left_by_argparse(left):
            raise
        return left.code if isinstance(left.code, int) else 0


def _left_by_argparse(error: BaseException) -> bool:
    """Whether nothing is left to do after ``--help``, or a benchmark's options are wrong; nobody else may leave so."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, SystemExit) and frames[-1].f_code.co_filename == argparse.__file__


def _answer(error: BaseException) -> tuple[int, str]:
    """Say in one line what went wrong; return the exit status, and that line without its first word."""
    if not ranks.first():
        # Most mistakes are everybody's: the launcher ends this process once the first has said so.
        time.sleep(PATIENCE)
    terminal.clear()
    if type(error) in INTERRUPTS:
        return 143 if isinstance(error, Terminated) else 130, _complain(
            "interrupted; run the same command again to go on"
        )
    if os.environ.get("PREFLAB_DEBUG") == "1":
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        print(terminal.printable(crash.without_secrets("".join(lines))), file=sys.stderr)
    known = _advice(error)
    if known is not None:
        return 2, _complain(known, "error: ")
    if isinstance(error, UserError):
        log = f" (traceback: {crash.write_log(error)})" if isinstance(error, PluginError) else ""
        return 2, _complain(f"{terminal.one_line(error)}{log}", "error: ")
    path = crash.write_log(error)
    kept = f"the traceback is in {path}" if path else "and no crash.log could be written"
    return 1, _complain(
        f"{crash.described(error)} ({crash.at(error) or 'nowhere'}): nobody foresaw this; {kept}. Finished "
        "stages are kept: run the same command again, and report it if it comes back",
        "error: ",
    )


def _advice(error: BaseException) -> str | None:
    """Return what to do where memory, disk or nesting came to an end; None for anything else."""
    if is_out_of_memory(error):
        return (
            f"out of memory ({crash.described(error)}); lower per_device_train_batch_size (auto finds what fits), "
            "eval_batch_size, rollout_prompts or the token limits, or take a smaller model. Finished stages are kept"
        )
    if _lost_another(error):
        return (
            "another process of this run has ended, and this one waits for it in vain; its own lines say why. Finished "
            "stages are kept: run the same command again"
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return (
            "too many files are open; allow more (ulimit -n) and run the same command again: finished stages are kept"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _drop_stdout()
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"no space is left on the disk{where}; free some and run the same command again: finished stages are kept"
        )
    if isinstance(error, OSError) and error.errno in OF_THE_PATH and error.filename is not None:
        return f"{terminal.shown(error.filename)}: {error.strerror}; give another path, or mend its permissions"
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's, of a path such as ~nobody/run
        return f"{error} A path begins with ~ and the name of nobody here; write it out"
    return None


def _lost_another(error: BaseException) -> bool:
    """Whether an exception says that a process beside this one is gone, in the words of gloo or NCCL's class."""
    names = {cls.__name__ for cls in type(error).__mro__}
    said = isinstance(error, RuntimeError) and "by peer" in str(error)
    return ranks.launched() and (said or "DistBackendError" in names)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the machine or an accelerator, was not enough."""
    # torch's own class is told by its name, since torch may never have been imported.
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _complain(message: str, mark: str = "") -> str:
    """Print a message, and return it as it was printed, without its mark."""
    line = terminal.one_line(crash.without_secrets(f"{mark}{message}"), 2 * terminal.LONGEST_LINE)
    print(line, file=sys.stderr)
    return line.removeprefix(mark)


def _drop_stdout() -> None:
    """Forget what stdout could not take: Python would try again at its end, and print a traceback of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


@contextmanager
def _signals_and_threads() -> Iterator[None]:
    """Let SIGTERM end the main thread as Ctrl-C does, and other threads' exceptions be answered in one line too."""

    def terminate(*_: Any) -> None:
        raise Terminated

    def in_a_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None:
            _answer(failed.exc_value)

    hook, threading.excepthook = threading.excepthook, in_a_thread
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    # One beside the first has nothing to say or to save, and may be waiting where no handler is run.
    ours = ours and ranks.first()
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        threading.excepthook = hook
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
