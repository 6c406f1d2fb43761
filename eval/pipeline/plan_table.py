"""A plan as a table, and what it comes to in words."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from preflab.errors.terminal import console, one_line
from preflab.eval.pipeline.planning import Plan, Planned

if TYPE_CHECKING:
    from rich.table import Table as RichTable


WIDTH = 132
SURE = (0.7, 1.5)
"""How far the time that stages take lies from what a moment's measurement says."""


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    page = console(None if sys.stdout.isatty() else WIDTH)
    page.print(plan_table(plan))
    for sentence in sentences(plan):
        page.print(one_line(sentence))


def plan_table(plan: Plan) -> RichTable:
    """Return the stages, a row each, and what each stands on; evaluations that stand on the same share a row."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="what the run would do", box=box.SIMPLE_HEAD)
    table.add_column("stage", min_width=14)
    table.add_column("after", min_width=14)
    for column in ("steps", "prompts", "tokens", "sampled", "FLOPs", "peak memory", "disk", "time"):
        table.add_column(column, justify="right")
    for stage in gathered(plan.stages):
        table.add_row(Text(one_line(stage.name)), Text(one_line(", ".join(stage.needs))), *_cells(plan, stage))
    return table


def gathered(stages: Sequence[Planned]) -> list[Planned]:
    """Return stages with unfinished evaluations that stand on the same put together, where the first of them stands."""
    found, alike = dict[object, Planned](), Counter[object]()
    for number, stage in enumerate(stages):
        plain = stage.finished or stage.most.steps is None or not stage.name.startswith("eval-")
        key: object = number if plain else stage.needs
        alike[key] += 1
        if (first := found.get(key)) is not None:
            stage = first._replace(least=first.least.then(stage.least), most=first.most.then(stage.most))
        found[key] = stage
    return [
        stage._replace(name=f"{alike[key]} evaluations") if alike[key] > 1 else stage for key, stage in found.items()
    ]


def _cells(plan: Plan, stage: Planned) -> list[str]:
    cost = stage.most
    if stage.finished:
        return ["finished", *[""] * 7]
    if cost.steps is None:
        return ["?", *["–"] * 7]
    counts = [f"{n:,}" if n else "–" for n in (cost.steps, cost.prompts)]
    peak = None if cost.peak is None else cost.peak + plan.resident
    memory = "–" if peak is None else f"{size(peak)}{'' if plan.fits(peak - plan.resident) else ' !'}"
    return [*counts, *map(short, (cost.tokens, cost.sampled, cost.flops)), memory, size(cost.disk), _time(plan, stage)]


def _time(plan: Plan, *stages: Planned) -> str:
    """Return how long stages take, from the quickest that may be to the slowest."""
    if plan.pace is None:
        return "–"
    low = sum(stage.least.seconds(plan.pace) for stage in stages) * SURE[0]
    high = sum(stage.most.seconds(plan.pace) for stage in stages) * SURE[1]
    return f"{duration(low)} to {duration(high)}"


def sentences(plan: Plan) -> list[str]:
    """Return what a plan comes to: the time, the memory, what to change where it does not fit."""
    ahead = [stage for stage in plan.stages if not stage.finished]
    found = []
    if plan.pace is not None and ahead:
        found.append(
            f"In all {_time(plan, *ahead)}, by a micro-step through a few layers of this shape on {plan.device}; "
            "sampled responses counted as long as those of the data at the least, at the limit at the most."
        )
    disk = sum(stage.most.disk for stage in ahead)
    found.append(f"Disk: {size(disk)} in all, answers and figures of the evaluation aside.")
    peaks = [stage.most.peak for stage in ahead if stage.most.peak is not None]
    if peaks:
        room = "" if plan.free is None else f"; {size(plan.free)} are free on {plan.device}"
        room = f", beside {size(plan.resident)} of the libraries{room}" if plan.resident else room
        found.append(f"Memory: the base takes {size(plan.weights)}, the largest stage {size(max(peaks))}{room}.")
    found += [f"{stage.name}: {stage.found}." for stage in ahead if stage.found]
    for stage in ahead:
        if stage.ways:
            found.append(f"{stage.name} will not fit. It would with: {'; or '.join(stage.ways)}.")
    if any(stage.most.steps is None for stage in ahead):
        found.append("What brings a trainer of its own, trains nothing, or ends with a budget of time is not foretold.")
    return found


def size(count: float) -> str:
    """Return bytes for people, in two digits or three."""
    if not count:
        return "–"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1000:
            return f"{count:.0f} {unit}"
    return f"{count / 1024:.1f} GiB"


def short(count: float) -> str:
    """Return a count for people, in two digits."""
    return f"{count:.1e}" if count >= 1e6 else f"{count:,.0f}" if count else "–"


def duration(seconds: float) -> str:
    """Return a time for people, in two digits."""
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.2g} {unit}"
    return f"{seconds / 86400:.2g} days"
