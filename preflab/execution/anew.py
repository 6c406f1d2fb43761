"""A process that opens the session of another one anew, and builds pieces of the same graph by their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.executing import Report
from preflab.execution.graph import Graph
from preflab.execution.reporting import Tells, reported
from preflab.progress import mute
from preflab.versions import versions

Opens = Callable[[], tuple[Run, Graph]]
"""Joins the run and makes the graph, from settings alone; it can be pickled."""


class Orders(NamedTuple):
    """What such a process is told at its beginning.

    Attributes:
        opens: joins the run and makes the graph.
        folder: where the session was opened, which relative paths are of.
        versions: of the libraries there.
        threads: how many CPU threads it has.
    """

    opens: Opens
    folder: str
    versions: dict[str, str]
    threads: int

    @classmethod
    def here(cls, opens: Opens, threads: int) -> Orders:
        """Return what another process is told to do the work of this one."""
        return cls(opens, os.getcwd(), versions(), threads)  # noqa: PTH109 (as text, for another machine)


class Workplace:
    """Where pieces are built: opened for the first one, and kept.

    Args:
        orders: what it is told.
    """

    def __init__(self, orders: Orders) -> None:
        self.orders, self._opened = orders, None  # type: tuple[Orders, tuple[Run, Graph] | None]

    def build(self, name: str, tell: Tells | None = None) -> Report:
        """Build the piece of a name, telling how far it is; what goes wrong is in the report."""
        if self._opened is None:
            mute()
            logging.getLogger().handlers[:] = [logging.NullHandler()]  # whoever opened it first has said all that
            try:
                self._opened = self._open()
            except UserError as error:
                return Report(error=error)
        run, graph = self._opened
        return reported(run, graph[name].build, tell)

    def _open(self) -> tuple[Run, Graph]:
        """Join the run.

        Raises:
            UserError: where figures would not be those of the other process.
        """
        if (own := versions()) != self.orders.versions:
            named = sorted(name for name in own.keys() | self.orders.versions.keys() if self._differs(own, name))
            said = ", ".join(f"{name} {own.get(name)} and {self.orders.versions.get(name)}" for name in named)
            raise UserError(f"a worker on {os.uname().nodename} has other versions than this process: {said}")
        try:
            os.chdir(self.orders.folder)
        except OSError as error:
            raise UserError(
                f"{self.orders.folder} is not there on {os.uname().nodename}: {error.strerror}; start where all "
                "machines see the same folder"
            ) from None
        import torch

        torch.set_num_threads(self.orders.threads)
        return self.orders.opens()

    def _differs(self, own: dict[str, str], name: str) -> bool:
        return own.get(name) != self.orders.versions.get(name)
