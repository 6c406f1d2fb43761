"""Pieces built by jobs of SLURM, one each, submitted by submitit, whose local executor tries the same here."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preflab.errors import UserError
from preflab.execution.anew import Opens, Orders, Workplace
from preflab.execution.executing import Report
from preflab.execution.graph import Piece

CLUSTER = "cluster"
LOOK = 0.5
"""Seconds between two looks at the jobs; submitit itself asks SLURM less often."""


def check_installed() -> None:
    """Refuse jobs where nothing can submit them.

    Raises:
        UserError: saying how it comes.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--slurm submits jobs by submitit, which is not installed: pip install 'preflab[slurm]'")


def parameters_of(text: str) -> dict[str, str | int]:
    """Return what ``name=value,name=value`` says, for submitit's ``update_parameters``; numbers as numbers.

    Raises:
        UserError: for another form.
    """
    found: dict[str, str | int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name or not value:
            raise UserError(
                f"--slurm: {part!r} must have the form name=value, as in slurm_partition=gpu,timeout_min=240"
            )
        found[name] = int(value) if value.isdigit() else value
    return found


def build(orders: Orders, name: str) -> Report:
    """Build a piece in the process of a job."""
    return Workplace(orders).build(name)


class OnSlurm:
    """A job for each piece.

    Args:
        opens: joins the run and makes the graph, in each job.
        parameters: as `parameters_of` returns them; ``cluster`` is ``slurm`` (the default) or ``local``.
        size: how many jobs at a time, queued ones included.
        folder: for submitit's own files, on a disk that all machines see.
        threads: CPU threads of each.

    Raises:
        UserError: for parameters that submitit does not know, or where there is no SLURM.
    """

    tries, gives_back = 4, False

    def __init__(
        self, opens: Opens, parameters: Mapping[str, str | int], size: int, folder: Path, threads: int = 1
    ) -> None:
        import submitit

        self.size, self._orders, self._jobs = size, Orders.here(opens, threads), dict[str, Any]()
        given = dict(parameters)
        # Jobs inherit the environment.
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=str(given.pop(CLUSTER, "slurm")))
            self._executor.update_parameters(**{"name": "preflab", "cpus_per_task": threads, **given})
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            raise UserError(f"--slurm: {str(error).strip().splitlines()[0]}") from None

    def __enter__(self) -> OnSlurm:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs.values():
            job.cancel(check=False)  # stages are finished or absent, whenever that comes

    def begin(self, piece: Piece) -> None:
        """Submit a job."""
        self._jobs[piece.name] = self._executor.submit(build, self._orders, piece.name)

    def ended(self) -> Iterator[tuple[str, Report | None]]:
        """Wait until some have ended; yield their names and reports: None of one that died."""
        while not (done := [name for name, job in self._jobs.items() if job.done()]):
            time.sleep(LOOK)
        for name in done:
            yield name, self._report(name)

    def _report(self, name: str) -> Report | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        job = self._jobs.pop(name)
        try:
            report: Report = job.result()
        except FailedJobError as error:  # before the piece was begun, whose own mistakes are in its report
            return Report(error=UserError(f"the job of {name} failed: {str(error).strip().splitlines()[-1]}"))
        except UncompletedJobError:
            return None
        return report
