"""Processes that call a reward function, so that slow calls run side by side and a hanging one can be ended."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from queue import SimpleQueue

from preflab.errors import PluginError, UserError
from preflab.rewards.calls import FunctionCaller, described
from preflab.rewards.questions import Question

Reply = list[float | None] | UserError


class Workers:
    """Calls a reward function in processes of their own. They are no sandbox: code in them may do all that ours may.

    Args:
        place: of the function.
        count: processes at a time; each starts when it is first needed.
        timeout: seconds that one call may take; None: as long as it likes.
    """

    def __init__(self, place: str, count: int, timeout: float | None) -> None:
        self.place, self.count, self.timeout = place, count, timeout
        self._all = [_Worker(place) for _ in range(count)]
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def __call__(self, calls: Sequence[Sequence[Question]]) -> list[float | None]:
        """Return the rewards of all questions, call by call; None for those of a call that took too long.

        Raises:
            UserError: if the function fails, or kills its process.
        """
        with ThreadPoolExecutor(self.count) as pool:
            try:
                futures = [pool.submit(self._work, call) for call in calls]
                for future in as_completed(futures):  # whichever fails first is heard of first
                    future.result()
                return [value for future in futures for value in future.result()]
            except BaseException:  # Ctrl-C too: calls under way would be waited for, however long they take
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in self._all:
                    worker.kill()
                raise

    def _work(self, call: Sequence[Question]) -> Sequence[float | None]:
        worker = self._free.get()
        try:
            reply = worker.ask(call, self.timeout)
        finally:
            self._free.put(worker)
        if isinstance(reply, UserError):
            raise reply
        return reply


class _Worker:
    """One process, started when it is first asked, and again after it was killed."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._process: multiprocessing.process.BaseProcess | None = None
        self._line: Connection | None = None
        atexit.register(self._end)

    def ask(self, call: Sequence[Question], timeout: float | None) -> Reply:
        """Return what a call gave: rewards, None for each that took too long, or what went wrong."""
        try:
            line = self._line or self._start()
            line.send(call)
            if not line.poll(timeout):
                self._end()
                return [None] * len(call)
            reply: Reply = line.recv()
        except (EOFError, OSError):
            code = self._end()
            how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            return UserError(f"reward {self.place!r} ended its process ({how}), for {described(call)}")
        except BaseException:  # Ctrl-C: its answer would be taken for the next question's
            self._end()
            raise
        return reply

    def _start(self) -> Connection:
        # Not forked: threads of this process would leave locks behind that nobody opens.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process, self._line = context.Process(target=serve, args=(theirs, self.place)), ours
        self._process.start()
        theirs.close()
        problem = ours.recv()  # importing the function is no part of a call's time
        if problem is not None:
            raise problem
        return ours

    def kill(self) -> None:
        """Kill the process and what it started; who waits for its answer sees it end."""
        process = self._process
        if process is not None and process.pid is not None and process.exitcode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # one that has not made its group yet

    def _end(self) -> int | None:
        """Kill the process, and forget it; return its exit code."""
        self.kill()
        process, line, self._process, self._line = self._process, self._line, None, None
        if line is not None:
            line.close()
        if process is None:
            return None
        process.join()
        return process.exitcode


def serve(line: Connection, place: str) -> None:
    """Answer calls until the other end hangs up: the work of one process."""
    os.setsid()  # a group of its own, which is killed as a whole
    caller, problem = None, None
    try:
        caller = FunctionCaller(place)
    except UserError as error:
        problem = _sent(error)
    line.send(problem)
    with contextlib.suppress(EOFError):
        while caller is not None:
            line.send(_answer(caller, line.recv()))


def _answer(caller: FunctionCaller, call: Sequence[Question]) -> Reply:
    try:
        return caller(call)
    except UserError as error:
        return _sent(error)


def _sent(error: UserError) -> UserError:
    """Return an error as it can cross to another process, without what it was made from."""
    return (PluginError if isinstance(error, PluginError) else UserError)(str(error))
