"""Who builds what a graph is made of, and how many pieces at a time."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.pipeline.defaults import TINY, nearest
from preflab import ranks
from preflab.errors import UserError
from preflab.model.model_size import model_size
from preflab.rewards.specification import ENDPOINT
from preflab.settings.fields import option

if TYPE_CHECKING:
    from eval.pipeline.session import Session
    from preflab.disk.stages import Run
    from preflab.execution.anew import Opens
    from preflab.execution.executing import Crew


@dataclass(frozen=True)
class WorkersConfig:
    """Who builds."""

    workers: int | None = option(
        None,
        "stages trained and evaluated side by side: on CPUs by processes of one thread each, on CUDA by processes of "
        "one GPU each; default: where methods are compared as many as there are GPUs, or, for models below 20 million "
        "parameters, cores; else 1",
        minimum=1,
        maximum=1024,
    )


WORKERS: dict[str, type] = {"workers": WorkersConfig}
"""The configs of a session whose work can be spread."""


def check_launched(session: Session) -> None:
    """Refuse workers of processes that a launcher has started to share every stage.

    Raises:
        UserError: saying what to do.
    """
    asked, many = _config(session).workers, ranks.ranks()
    if (asked or 1) > 1 and many > 1:
        raise UserError(
            f"--workers {asked}: a launcher has started {many} processes that share every stage; leave it out, or "
            "start with python"
        )


def at_a_time(session: Session, *, timed: bool, compares: bool = True) -> int:
    """Return how many pieces are built side by side.

    Args:
        session: the settings.
        timed: whether training is held to a budget of time, which pieces side by side would take from each other.
        compares: whether there are many pieces.

    Raises:
        UserError: if several are asked for where they cannot share a device or an endpoint, or are to have threads.
    """
    from preflab.execution.spawned import visible_devices

    asked, gpus = _config(session).workers, len(visible_devices())
    if (asked or 1) > 1:
        _check(session, asked or 1, gpus, timed)
    if asked:
        return asked
    if ranks.ranks() > 1 or not compares or timed or _asks_endpoint(session):
        return 1
    if gpus:
        return gpus
    tiny = session.world.model is None or nearest(model_size(session.world.model).parameters) == TINY
    alone = sys.platform != "linux" or (session.run.threads or 1) > 1
    return len(os.sched_getaffinity(0)) if tiny and not alone else 1


def crew_of(session: Session, run: Run, workers: int, opens: Opens) -> Crew:
    """Return who builds the stages of a run.

    Args:
        session: the settings.
        run: the run.
        workers: how many pieces at a time.
        opens: joins the run in another process, and makes the same graph.
    """
    from preflab.execution.executing import Here
    from preflab.execution.forked import Forked
    from preflab.execution.spawned import Spawned, visible_devices

    gpus = visible_devices()
    if workers == 1:
        return Here()
    if gpus:
        threads = session.run.threads or max(1, (os.cpu_count() or 1) // workers)
        return Spawned(opens, workers, gpus[:workers], threads)
    return Forked(run, workers) if sys.platform == "linux" else Spawned(opens, workers)


def _config(session: Session) -> WorkersConfig:
    found = session.configs.get("workers", WorkersConfig())
    assert isinstance(found, WorkersConfig)
    return found


def _asks_endpoint(session: Session) -> bool:
    return any(part.source == ENDPOINT for part in session.world.reward_parts)


def _check(session: Session, asked: int, gpus: int, timed: bool) -> None:
    """Refuse several workers that would share what cannot be shared.

    Raises:
        UserError: naming it.
    """
    threads = session.run.threads or 1
    if timed:
        raise UserError("match time measures training, and workers side by side slow each other; set workers to 1")
    if _asks_endpoint(session):
        raise UserError(
            "--workers: each process would ask the reward's endpoint at a pace and within a budget of its own; "
            "leave it out"
        )
    if gpus and asked > gpus:
        raise UserError(
            f"--workers {asked}: each has a GPU of its own, and {gpus} can be seen here; give {gpus} or less"
        )
    if not gpus and threads > 1:
        raise UserError(f"--workers gives each process one CPU thread, and --threads {threads}; keep one of the two")
