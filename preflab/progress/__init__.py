"""That work goes on, and how far it is: a live display in a terminal, a line in a notebook, else lines with the time.

    with progress("dpo-seed0", total=120, unit="step") as task:
        ...
        task.advance()
    for part in tracked(parts, "held-out pairs", "batch"):
        ...

Everything goes to stderr, or to the cell that is running; stdout is for results. No torch here.
"""

from preflab.progress.board import Board, Made
from preflab.progress.default import (
    afresh,
    at_work,
    begun,
    elsewhere,
    ended,
    expect,
    heard,
    made,
    mute,
    progress,
    reused,
    say,
    stage,
    tracked,
)
from preflab.progress.task import Task
from preflab.progress.words import duration, listed

__all__ = [
    "Board",
    "Made",
    "Task",
    "afresh",
    "at_work",
    "begun",
    "duration",
    "elsewhere",
    "ended",
    "expect",
    "heard",
    "listed",
    "made",
    "mute",
    "progress",
    "reused",
    "say",
    "stage",
    "tracked",
]
