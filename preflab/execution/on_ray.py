"""Pieces built by actors of a Ray cluster: this machine's own, or one that an address leads to.

A piece is a call of an actor. Actors live as long as the crew: opening libraries, data and a GPU's context takes
seconds, and many pieces take no longer. Ray's own retries stay off, as what is begun again, and how often, is decided
for all crews alike; an actor that dies is replaced wherever there is room.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from typing import Any

from preflab.errors import UserError
from preflab.execution.anew import Opens, Orders, Workplace
from preflab.execution.executing import Report
from preflab.execution.graph import Piece

LOCAL, AUTO = "local", "auto"
PATIENCE = 5.0
"""Seconds in which a cluster's head must answer; Ray itself would wait for minutes."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_worker_niceness": "0",  # Ray's workers would stand back behind everything else
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # where something else answers, Ray tries for minutes
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU leaves CUDA_VISIBLE_DEVICES as it is
}
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "TOKENIZERS_PARALLELISM")


def check(address: str) -> None:
    """Refuse Ray where it is not there, and an address of another form.

    Raises:
        UserError: saying which.
    """
    host, _, port = address.rpartition(":")
    if address not in (LOCAL, AUTO) and not (host and port.isdigit() and "/" not in address):
        raise UserError(f"--ray {address}: it takes local, auto (a cluster on this machine) or HOST:PORT of the head")
    if importlib.util.find_spec("ray") is None:
        raise UserError("--ray builds on a Ray cluster, and Ray is not installed: pip install 'preflab[ray]'")


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody answers.

    Raises:
        UserError: naming it.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: no cluster can be reached there: {error}") from None


class OnRay:
    """Actors of a cluster, a GPU each where it has any, else a CPU.

    Args:
        opens: joins the run and makes the graph, in each of them.
        address: ``local``, or where the cluster's head is.
        size: how many at a time; None: as many as the cluster has GPUs or, without any, CPUs.
        threads: CPU threads of each.

    Raises:
        UserError: if the cluster cannot be reached, or has not so many GPUs or CPUs.
    """

    tries, gives_back = 4, False

    def __init__(self, opens: Opens, address: str, size: int | None, threads: int = 1) -> None:
        self._orders, self.threads = Orders.here(opens, threads), threads
        self._idle, self._busy = list[Any](), dict[Any, tuple[str, Any]]()
        self._silence = ExitStack()
        self._ours = self._connect(address, size)
        self.size = self._checked(address, size)

    def __enter__(self) -> OnRay:
        # Ray prints where results belong, from a thread of its own, what is said here in fewer words.
        self._silence.enter_context(redirect_stdout(io.StringIO()))
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for actor in (*self._idle, *(actor for _, actor in self._busy.values())):
            ray.kill(actor)  # stages are finished or absent, whenever that comes
        if self._ours:
            ray.shutdown()
        self._silence.close()

    def begin(self, piece: Piece) -> None:
        """Ask an actor that has nothing to do, or a new one."""
        actor = self._idle.pop() if self._idle else self._started()
        self._busy[actor.build.remote(piece.name)] = (piece.name, actor)

    def ended(self) -> Iterator[tuple[str, Report | None]]:
        """Wait until one has ended; yield its name and report: None where its actor died."""
        import ray

        (done,), _ = ray.wait(list(self._busy), num_returns=1)
        name, actor = self._busy.pop(done)
        report: Report | None
        try:
            report = ray.get(done)
            self._idle.append(actor)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.WorkerCrashedError):
            report = None
            ray.kill(actor)  # one that is only out of reach would go on
        except ray.exceptions.RayError as error:
            report = Report(error=UserError(f"Ray could not build {name}: {str(error).strip().splitlines()[-1]}"))
        yield name, report

    def _connect(self, address: str, size: int | None) -> bool:
        """Connect to the cluster, or start one of this machine; return whether that has to be undone."""
        os.environ.update(QUIET)
        import ray

        if ray.is_initialized():
            return False
        if address not in (LOCAL, AUTO):
            _check_reachable(address)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address == LOCAL:
                cpus = None if size is None else size * self.threads
                ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                ray.init(address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"--ray {address}: no cluster can be reached there: {reason}") from None
        return True

    def _checked(self, address: str, size: int | None) -> int:
        """Return how many actors there can be at a time."""
        import ray

        resources = ray.cluster_resources()
        self.gpus, many = int(resources.get("GPU", 0)), int(resources.get("CPU", 0)) // self.threads
        kind = "CPUs" if self.threads == 1 else f"times {self.threads} CPUs"
        if self.gpus and self.gpus <= many:
            many, kind = self.gpus, "GPUs"
        if (size or 1) > many:
            self.__exit__()
            raise UserError(
                f"--workers {size or 1}: the cluster at --ray {address} has {many} {kind}; give {many} or less"
            )
        return size or many

    def _started(self) -> Any:
        import ray

        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads)}
        actor = ray.remote(Workplace).options(
            num_cpus=self.threads,
            num_gpus=1 if self.gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )
        return actor.remote(self._orders)
