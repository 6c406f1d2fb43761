"""Many commands, each in a fork of one process that has the libraries loaded and has done nothing else."""

from __future__ import annotations

import os
import re
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.cases import Case, words

RECIPES = Path(__file__).parents[2] / "recipes"
LIMIT = 30.0  # seconds
MEMORY = 8 << 30  # bytes that a command may take before it is told that there are no more
NOT_MADE = 97
"""Exit status of a case whose files could not be made: a fault of the benchmark."""


WARM = words(
    "datasets pyarrow.parquet trl.data_utils peft rich.table httpx2 jinja2 tqdm.auto "
    "transformers.models.llama.modeling_llama preflab.experiment.experiment "
    "preflab.training.trainer preflab.worlds.real preflab.worlds.function preflab.worlds.exact "
    "preflab.eval.harness.evaluate "
    "preflab.eval.comparison.record preflab.eval.subjects.models preflab.eval.report preflab.eval.judges "
    "preflab.eval.pipeline.comparing "
    "preflab.eval.pipeline.training preflab.eval.pipeline.evaluating"
)
"""Modules that recipes import, most of them late."""


class Answer(NamedTuple):
    """What a command left.

    Attributes:
        status: exit status; −n if signal n ended it; None if it was still running at the limit.
        out: standard output.
        err: standard error.
        seconds: how long it took.
        folder: where it ran.
    """

    status: int | None
    out: str
    err: str
    seconds: float
    folder: Path


class Child(NamedTuple):
    """A command under way."""

    case: Case
    folder: Path
    began: float


def warm() -> None:
    """Import everything that a recipe imports, so that forks have it."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
    import gc
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in WARM:
        importlib.import_module(name)
    from preflab.method import registry

    for name in registry.registered():
        registry.load(name)
    gc.freeze()  # nothing of it will be garbage; forks need not look


def run_all(
    cases: Sequence[Case], work: Path, kit: Path, jobs: int, done: Callable[[Case, Answer], None], limit: float = LIMIT
) -> None:
    """Run every case in a folder of its own, so many at a time; `done` is told of each as it ends."""
    waiting, running = iter(enumerate(cases)), dict[int, Child]()
    try:
        while True:
            while len(running) < jobs and (item := next(waiting, None)) is not None:
                number, case = item
                folder = work / f"{number:04}-{re.sub(r'[^a-zA-Z0-9.-]+', '-', case.name)[:80]}"
                running[_start(case, folder, kit)] = Child(case, folder, time.monotonic())
            if not running:
                return
            for pid, status in _ended(running, limit):
                child = running.pop(pid)
                done(child.case, _answer(child, status))
    finally:
        for pid in running:
            _kill(pid)


def run_one(case: Case, work: Path, kit: Path, limit: float = 10 * LIMIT) -> Answer:
    """Run one case."""
    answers: list[Answer] = []
    run_all([case], work, kit, 1, lambda _, answer: answers.append(answer), limit)
    return answers[0]


def run_until(case: Case, folder: Path, kit: Path, stop: Callable[[float], bool]) -> int | None:
    """Run a case in a folder that may be there already; kill it once `stop`, told the seconds so far, says so.

    Returns:
        Its exit status; None if it was killed.
    """
    pid, began = _start(case, folder, kit), time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if stop(time.monotonic() - began):
            _kill(pid)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.001)


def _start(case: Case, folder: Path, kit: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "kit").is_symlink():
        (folder / "kit").symlink_to(kit)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()  # what the command starts is ended with it
        _become(case, folder)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _become(case: Case, folder: Path) -> None:
    """Make the case's files, then be the command."""
    os.chdir(folder)
    for descriptor, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # a script's own, not somebody's in their place
    os.environ.update(case.environment)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    try:
        (folder / "command.txt").write_text(repr(case.command))
        filled = case.make(folder) or {}
        command = [part.format(**filled) if filled else part for part in case.command]
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(NOT_MADE)
    sys.argv = [str(RECIPES / command[0]), *command[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _ended(running: dict[int, Child], limit: float) -> Iterator[tuple[int, int | None]]:
    """Wait a moment; yield processes that ended, with their status, and end those past the limit."""
    for pid, child in list(running.items()):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _kill(pid)  # whatever it left behind
            yield pid, os.waitstatus_to_exitcode(status)
        elif time.monotonic() - child.began > limit:
            _kill(pid)
            os.waitpid(pid, 0)
            yield pid, None
    time.sleep(0.005)


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _answer(child: Child, status: int | None) -> Answer:
    texts = [(child.folder / name) for name in ("out.txt", "err.txt")]
    out, err = (path.read_bytes().decode(errors="replace") if path.exists() else "" for path in texts)
    return Answer(status, out, err, time.monotonic() - child.began, child.folder)
