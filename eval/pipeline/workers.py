"""Who builds what a graph is made of, and how many pieces at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import ranks
from preflab.errors import UserError
from preflab.eval.pipeline.defaults import TINY, nearest
from preflab.execution import on_ray, on_slurm
from preflab.method.written import IN_A_FILE, is_of_the_program
from preflab.model.model_size import model_size
from preflab.rewards.specification import ENDPOINT
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Run
    from preflab.eval.pipeline.session import Session
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
    ray: str | None = option(
        None,
        "build on a Ray cluster: local (one of this machine), auto (one that runs on it) or HOST:PORT of its head; a "
        "GPU to a stage where the cluster has any, else a CPU; --workers bounds how many at a time",
    )
    slurm: str | None = option(
        None,
        "build by SLURM jobs, one to a stage: submitit's parameters as name=value,name=value, such as "
        "slurm_partition=gpu,gpus_per_node=1,timeout_min=240; cluster=local tries it here; --workers bounds how many "
        "at a time",
    )

    def __post_init__(self) -> None:
        if self.ray is not None and self.slurm is not None:
            raise ValueError("ray and slurm both say who builds; keep one of the two")

    @property
    def flag(self) -> str | None:
        """The option by which more than this process builds; None where it alone is asked to."""
        if self.ray is not None:
            return f"--ray {self.ray}"
        if self.slurm is not None:
            return "--slurm"
        return f"--workers {self.workers}" if (self.workers or 1) > 1 else None


WORKERS: dict[str, type] = {"workers": WorkersConfig}
"""The configs of a session whose work can be spread."""

JOBS = 64
"""SLURM jobs at a time, queued ones included, unless it is said how many."""


def check_workers(session: Session, *, timed: bool = False) -> None:
    """Refuse several builders that are not there, or would share what cannot be shared, as far as settings say.

    Args:
        session: the settings.
        timed: whether training is held to a budget of time, which pieces side by side would take from each other.

    Raises:
        UserError: saying what to do.
    """
    config, many = _config(session), ranks.ranks()
    if config.flag is None:
        return
    if many > 1:
        raise UserError(
            f"{config.flag}: a launcher has started {many} processes that share every stage; leave it out, or "
            "start with python"
        )
    if timed:
        raise UserError(
            f"{config.flag}: --match time measures training, and stages side by side slow each other; set workers to 1"
        )
    if _asks_endpoint(session):
        raise UserError(
            f"{config.flag}: each process would ask the reward's endpoint at a pace and within a budget of its own; "
            "leave it out"
        )
    if ":" in session.run.device and (config.ray is not None or config.slurm is not None):
        raise UserError(f"{config.flag}: --device {session.run.device} is a GPU of this machine; give cuda, or cpu")
    if config.ray is not None:
        on_ray.check(config.ray)
    if config.slurm is not None:
        on_slurm.parameters_of(config.slurm)
        on_slurm.check_installed()


def check_here(session: Session, methods: Iterable[str], *, timed: bool = False, compares: bool = True) -> None:
    """Refuse builders that start anew where a method is a class of the script or notebook that runs.

    Args:
        session: the settings.
        methods: the names of all that is trained.
        timed: as for `at_a_time`.
        compares: as for `at_a_time`.

    Raises:
        UserError: naming the method, and what to do.
    """
    config, own = _config(session), next(filter(is_of_the_program, methods), None)
    if own is None:
        return
    here = config.ray is None and config.slurm is None
    if here and (at_a_time(session, timed=timed, compares=compares) == 1 or _forks()):
        return
    raise UserError(
        f"{config.flag or 'several GPUs'}: {own} is a class of this program, which processes that are started anew "
        f"cannot import; {IN_A_FILE}, or build here: workers 1"
    )


def _forks() -> bool:
    """Whether several processes on this machine are forked off this one, with all that it knows."""
    from preflab.execution.spawned import visible_devices

    return sys.platform == "linux" and not visible_devices()


def at_a_time(session: Session, *, timed: bool, compares: bool = True) -> int:
    """Return how many pieces are built side by side on this machine; of settings that `check_workers` has seen.

    Args:
        session: the settings.
        timed: as for `check_workers`.
        compares: whether there are many pieces.

    Raises:
        UserError: if several are asked for that would share a GPU, or are to have threads.
    """
    from preflab.execution.spawned import visible_devices

    config, gpus, threads = _config(session), len(visible_devices()), session.run.threads or 1
    asked, elsewhere = config.workers or 1, config.ray is not None or config.slurm is not None
    if asked > 1 and not elsewhere:
        if gpus and asked > gpus:
            raise UserError(
                f"--workers {asked}: each has a GPU of its own, and {gpus} can be seen here; give {gpus} or less"
            )
        if not gpus and threads > 1:
            raise UserError(
                f"--workers gives each process one CPU thread, and --threads {threads}; keep one of the two"
            )
    if config.workers:
        return config.workers
    if ranks.ranks() > 1 or not compares or timed or _asks_endpoint(session):
        return 1
    if gpus:
        return gpus
    tiny = session.world.model is None or nearest(model_size(session.world.model).parameters) == TINY
    return len(os.sched_getaffinity(0)) if tiny and sys.platform == "linux" and threads == 1 else 1


def crew_of(session: Session, run: Run, workers: int, opens: Opens) -> Crew:
    """Return who builds the stages of a run.

    Args:
        session: the settings.
        run: the run.
        workers: how many pieces at a time on this machine.
        opens: joins the run in another process, and makes the same graph.

    Raises:
        UserError: for a cluster that cannot be reached.
    """
    from preflab.execution.executing import Here
    from preflab.execution.forked import Forked
    from preflab.execution.spawned import Spawned, visible_devices

    config, threads = _config(session), session.run.threads or 1
    if config.ray is not None:
        return on_ray.OnRay(opens, config.ray, config.workers, threads)
    if config.slurm is not None:
        parameters, folder = on_slurm.parameters_of(config.slurm), run.folder.resolve() / "slurm"
        return on_slurm.OnSlurm(opens, parameters, config.workers or JOBS, folder, threads)
    if workers == 1:
        return Here()
    if gpus := visible_devices():
        threads = session.run.threads or max(1, (os.cpu_count() or 1) // workers)
        return Spawned(opens, workers, gpus[:workers], threads)
    return Forked(run, workers) if _forks() else Spawned(opens, workers)


def _config(session: Session) -> WorkersConfig:
    found = session.configs.get("workers", WorkersConfig())
    assert isinstance(found, WorkersConfig)
    return found


def _asks_endpoint(session: Session) -> bool:
    return any(part.source == ENDPOINT for part in session.world.reward_parts)
