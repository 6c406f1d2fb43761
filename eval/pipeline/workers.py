"""Who builds what a graph is made of, and how many pieces at a time."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.pipeline.defaults import TINY, nearest
from preflab.errors import UserError
from preflab.model.model_size import model_size
from preflab.rewards.specification import ENDPOINT
from preflab.settings.fields import option

if TYPE_CHECKING:
    from eval.pipeline.session import Session
    from preflab.disk.stages import Run
    from preflab.execution.executing import Crew


@dataclass(frozen=True)
class WorkersConfig:
    """Who builds."""

    workers: int | None = option(
        None,
        "stages trained and evaluated side by side, by processes of one CPU thread each; default: as many as there are "
        "cores where methods are compared and the model has below 20 million parameters, else 1",
        minimum=1,
        maximum=1024,
    )


WORKERS: dict[str, type] = {"workers": WorkersConfig}
"""The configs of a session whose work can be spread."""


def at_a_time(session: Session, *, timed: bool, compares: bool = True) -> int:
    """Return how many stages are made side by side.

    Args:
        session: the settings.
        timed: whether training is held to a budget of time, which stages side by side would take from each other.
        compares: whether there are many stages.

    Raises:
        UserError: if several are asked for where they cannot share a device or an endpoint, or are to have threads.
    """
    import torch

    config, threads = session.configs.get("workers", WorkersConfig()), session.run.threads
    asked = config.workers
    asks_endpoint = any(part.source == ENDPOINT for part in session.world.reward_parts)
    if (asked or 1) > 1:
        if timed:
            raise UserError("match time measures training, and workers side by side slow each other; set workers to 1")
        if torch.cuda.is_available():
            raise UserError("--workers: processes side by side are for the CPU, and a GPU is there; leave it out")
        if asks_endpoint:
            raise UserError(
                "--workers: each process would ask the reward's endpoint at a pace and within a budget of its own; "
                "leave it out"
            )
        if (threads or 1) > 1:
            raise UserError(
                f"--workers gives each process one CPU thread, and --threads {threads}; keep one of the two"
            )
    if asked:
        return asked
    tiny = session.world.model is None or nearest(model_size(session.world.model).parameters) == TINY
    alone = torch.cuda.is_available() or timed or asks_endpoint or sys.platform != "linux" or (threads or 1) > 1
    return len(os.sched_getaffinity(0)) if compares and tiny and not alone else 1


def crew_of(run: Run, workers: int) -> Crew:
    """Return who builds the stages of a run."""
    from preflab.execution.executing import Here
    from preflab.execution.forked import Forked

    return Here() if workers == 1 else Forked(run, workers)
