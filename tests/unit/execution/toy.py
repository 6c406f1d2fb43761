"""A run of small pieces, which processes started anew open by importing this module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from preflab.disk.guest import GuestRun
from preflab.disk.seals import seal
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.graph import Graph, Piece


def joined(folder: Path) -> tuple[Run, Graph]:
    """Join the run, and make its graph."""
    run = GuestRun(folder / "run")
    return run, graph(run, folder)


def graph(run: Run, folder: Path) -> Graph:
    """Two pieces, and one that stands on both; one that dies at first; one that ends in a mistake; one that is slow."""

    def piece(name, *needs, work=lambda inside: None):
        def build(inside):
            work(inside)
            below = [run.stage(other, {}, forbidden).record["pid"] for other in needs]
            return {"pid": os.getpid(), "of": below, "sees": os.environ.get("CUDA_VISIBLE_DEVICES")}

        return Piece(name, lambda: run.stage(name, {}, build), needs, (name,))

    def dies(inside):
        checkpoint, times = inside / "checkpoint-1", folder / "times"
        if not checkpoint.is_dir():
            checkpoint.mkdir()
            (checkpoint / "weights").write_text(str(os.getpid()))
            seal(checkpoint)
        with times.open("a") as file:
            file.write("x")
        if len(times.read_text()) < int((folder / "deaths").read_text()):
            os.kill(os.getpid(), signal.SIGKILL)

    def fails(inside):
        raise UserError("row 7 holds no text; mend it")

    def waits(inside):
        (folder / "begun").write_text(str(os.getpid()))
        time.sleep(60)

    return Graph(
        [
            piece("a"),
            piece("b", work=lambda inside: time.sleep(0.2)),
            piece("c", "a", "b"),
            piece("dies", work=dies),
            piece("after", "dies"),
            piece("fails", work=fails),
            piece("waits", work=waits),
        ]
    )


def only(whole: Graph, *names: str) -> Graph:
    """Return some pieces of a graph."""
    return Graph([whole[name] for name in names])


def forbidden(folder: Path):
    """Refuse to build."""
    raise AssertionError("built a second time")
