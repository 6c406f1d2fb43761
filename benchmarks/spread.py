"""What more workers would give: the graph of a finished comparison, each stage at the seconds that it took, replayed.

    python recipes/compare.py --workers 1 --output runs/compare
    python -m benchmarks.spread --run runs/compare [--opening SECONDS] [--write]

Nothing is trained. Each piece waits for what it needs and takes as long as its stages took; stages that were built side
by side on one machine took longer than they would alone, so take a run of one worker. A worker takes `--opening`
seconds before its first piece (importing libraries, opening data); those that need not be opened anew take none.
`--write` puts the table into docs/clusters.md.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.pages import update
from preflab.disk.files import read_jsonl, read_object
from preflab.disk.stages import SECONDS, UnbuiltRun
from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.planning import PLAN
from preflab.eval.pipeline.session import Session
from preflab.execution.graph import Graph

PAGE = Path(__file__).parents[1] / "docs" / "clusters.md"
WORKERS = (1, 2, 3, 4, 8, 16, 32, 64)
HEADINGS = ("workers", "wall, s", "idle, %", "times as fast")


class Replay(NamedTuple):
    """How a graph went.

    Attributes:
        wall: seconds until all was there.
        idle: share of all workers' time until then in which they built nothing, opening included.
    """

    wall: float
    idle: float


def replayed(graph: Graph, seconds: Mapping[str, float], workers: int, opening: float = 0.0) -> Replay:
    """Return how long a graph takes, begun piece by piece in its order wherever a worker is free.

    Args:
        graph: the pieces.
        seconds: of each, by its name.
        workers: how many.
        opening: seconds of each worker before its first piece.
    """
    waiting, done, under_way, idle, opened, now = list(graph), set[str](), list[tuple[float, str]](), workers, 0, 0.0
    while waiting or under_way:
        ready = [piece for piece in waiting if done.issuperset(piece.needs)]
        for piece in ready[:idle]:
            waiting.remove(piece)
            first = opened < workers and idle <= workers - opened  # those that have built something go first
            opened += first
            heapq.heappush(under_way, (now + seconds[piece.name] + (opening if first else 0.0), piece.name))
            idle -= 1
        now, name = heapq.heappop(under_way)
        done.add(name)
        idle += 1
    return Replay(now, 1.0 - sum(seconds.values()) / (workers * now))


def measured(folder: Path) -> tuple[Graph, dict[str, float]]:
    """Return the graph of the comparison that a run folder holds, and the seconds of each piece.

    Raises:
        UserError: if a stage is not there, or says nothing of its time.
    """
    from preflab.eval.pipeline.outline import outlined_comparison
    from preflab.eval.pipeline.unbuilt import Outline

    command = read_object(folder / "manifest.json").get("command")
    if not isinstance(command, list) or not str(command[:1]).endswith("compare.py']"):
        raise UserError(f"{folder}: its manifest names no command of compare.py")
    session = Session.read("", {**COMPARE, **PLAN}, argv=[*command[1:], "--output", str(folder)])
    arena, graph = outlined_comparison(session)
    assert isinstance(arena.experiment, Outline)
    assert isinstance(arena.experiment.run, UnbuiltRun)
    took = {row["stage"]: row["seconds"] for row in read_jsonl(folder / SECONDS)}
    found = {}
    for piece, asked in arena.experiment.asks(graph):
        if missing := [stage.folder.name for stage, _ in asked if stage.folder.name not in took]:
            raise UserError(f"{folder / SECONDS} has no seconds of {missing[0]}: finish the run by this version first")
        found[piece.name] = sum(took[stage.folder.name] for stage, _ in asked)
    return graph, found


def table(graph: Graph, seconds: Mapping[str, float], opening: float) -> list[list[str]]:
    """Return a row for each number of workers."""
    alone = replayed(graph, seconds, 1).wall
    rows = []
    for workers in WORKERS:
        wall, idle = replayed(graph, seconds, workers, opening if workers > 1 else 0.0)
        rows.append([str(workers), f"{wall:.0f}", f"{100 * idle:.0f}", f"{alone / wall:.1f}"])
    return rows


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished comparison")
    parser.add_argument("--opening", type=float, default=0.0, help="seconds of a worker before its first piece")
    parser.add_argument("--write", action="store_true", help="put the table into docs/clusters.md")
    args = parser.parse_args()
    graph, seconds = measured(args.run)
    rows = table(graph, seconds, args.opening)
    print(json.dumps({"pieces": len(graph), "seconds": round(sum(seconds.values()), 1)}))
    for row in (HEADINGS, *rows):
        print("  ".join(cell.rjust(12) for cell in row))
    if args.write:
        update(PAGE, "spread", HEADINGS, rows, keys=1)


if __name__ == "__main__":
    run_recipe(main)
