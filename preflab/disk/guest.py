"""A run that another process holds, and a guest that builds stages of it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preflab.disk.files import remove
from preflab.disk.stages import Run, Stage
from preflab.errors import UserError


class GuestRun(Run):
    """A folder of stages that somebody else opened, and holds; stages are built in attempts (`preflab.disk.attempts`).

    Args:
        folder: of the run.

    Raises:
        UserError: if it is not there: on another machine, say, that does not share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, folder / "stages"
        if not self.stages.is_dir():
            raise UserError(
                f"{self.stages} is not there on {socket.gethostname()}: what several machines build lies in a folder "
                "that all of them see, at one place; choose such an --output"
            )
        self._verified: dict[Path, Any] = {}
        self.built, self.known = set[Path](), set[Path]()
        self.attempt = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Wait for nobody: who is first wins."""
        yield

    def _working(self, final: Path) -> Path:
        return final.with_name(f".{final.name}.partial.{self.attempt}")

    def _named(self, working: Path, final: Path) -> None:
        """Give the folder its name, unless another attempt has it."""
        try:
            working.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            remove(working)

    def _made(
        self, name: str, key: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
    ) -> Stage:
        """Build a stage; what it reports is what lies there, whoever built that."""
        made = super()._made(name, key, inputs, build)
        kept = self._finished(made.folder, inputs)
        return made if kept is None else made._replace(record=kept)
