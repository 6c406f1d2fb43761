"""SIGKILL at random moments: the run goes on, and ends with the figures of one that nobody killed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import Case, said
from benchmarks.faults.damages import BASES, LASTING, figures
from benchmarks.faults.runner import LIMIT, run_until

BASE = BASES["finished"]


def run(count: int, seed: int, work: Path, kit: Path) -> dict[str, Any]:
    """Kill runs so many times in all, each again and again until it is done.

    Returns:
        ``kills``, ``runs`` that were finished among them, ``failed`` (runs that ended with another status), and
        ``equal``, whether all figures are those of the run that nobody killed.
    """
    case, moments = Case("kills", BASE.command, said()), random.Random(seed)
    whole = work / "whole"
    took: list[float] = []
    if run_until(case, whole, kit, lambda seconds: bool(took.append(seconds))) != 0:  # type: ignore[func-returns-value]
        raise RuntimeError(f"the run to kill fails: {(whole / 'err.txt').read_text()[-2000:]}")
    kills = runs = failed = 0
    equal = True
    while kills < count:
        folder, before = work / f"run-{runs}", kills
        while True:
            moment = moments.uniform(0, took[-1] / 2) if kills < count else 10 * LIMIT
            status = run_until(case, folder, kit, lambda seconds, moment=moment: seconds > moment)  # type: ignore[misc]
            if status is not None:
                break
            kills += 1
        if kills == before:
            continue
        runs, failed = runs + 1, failed + bool(status)
        equal = equal and not status and same(folder, whole)
    return {"kills": kills, "runs": runs, "failed": failed, "equal": equal}


def same(folder: Path, whole: Path) -> bool:
    """Return whether figures, samples and weights of two runs are equal."""
    results = [json.loads((place / BASE.result).read_text()) for place in (folder, whole)]
    files = [path.relative_to(whole) for path in whole.glob("run/stages/*/**/*") if path.name.endswith(LASTING)]
    return figures(results[0]) == figures(results[1]) and all(
        (folder / name).read_bytes() == (whole / name).read_bytes() for name in files
    )
