"""A command run to its end, its time, and the memory of all its processes on the way."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

EVERY = 0.5
"""Seconds between two looks; each stops a process for some milliseconds."""


class Cost(NamedTuple):
    """What a command took.

    Attributes:
        seconds: wall time, from its start to its end.
        memory: largest sum of the proportional sets of its processes, in bytes: a page that n of them share is counted
            as its nth part in each, so that what a fork shares counts once.
        resident: largest resident set of any one of them, in bytes.
    """

    seconds: float
    memory: int
    resident: int


def measured(command: Sequence[str], log: Path, **options: Mapping[str, str] | Path) -> Cost:
    """Run a command; what it says goes into a file.

    Raises:
        RuntimeError: if it fails, with the end of what it said.
    """
    memory = resident = 0
    with log.open("w", encoding="utf-8") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, **options)  # type: ignore[call-overload]
        while True:
            try:
                status = process.wait(EVERY)
                break
            except subprocess.TimeoutExpired:
                each = look(process.pid)
                memory = max(memory, sum(shared for shared, _ in each))
                resident = max([resident, *(own for _, own in each)])
        seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {status}: {log.read_text(encoding='utf-8')[-2000:]}")
    return Cost(seconds, memory, resident)


def look(pid: int) -> list[tuple[int, int]]:
    """Return proportional and resident set of a process and of all that it started; of those that end, none."""
    found = []
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            try:
                full = process.memory_full_info()
            except psutil.Error:
                continue
            found.append((full.pss, full.rss))
    except psutil.Error:
        pass
    return found
