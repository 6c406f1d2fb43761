"""``recipes/power.py``: how many seeds and prompts see a difference, from a pilot's variances. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflab.errors import UserError
from preflab.settings.fields import option

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from preflab.eval.records.comparison import PairTest
    from preflab.eval.records.variance import Sources
    from preflab.eval.statistics.variance import Components

WIDTH = 120
MOST_SEEDS = 64
"""The largest design that is looked at: nobody trains more replications of two methods."""

CAUTIOUS = 0.8
"""How surely the seeds' deviation lies below what a cautious plan takes it for."""


@dataclass(frozen=True)
class PowerConfig:
    """What a comparison is to see, and which pilot says how its values vary."""

    run: str = option("runs/compare", "run folder of the pilot, or its comparison.json")
    difference: float | None = option(
        None, "true difference to be seen, in the pilot's unit; default: only the table", minimum=1e-9
    )
    power: float = option(0.8, "how surely it is to be seen", minimum=0.05, maximum=0.99)
    level: float = option(
        0.95, "confidence of the test, before correction for several pairs", minimum=0.5, maximum=0.9999
    )
    plan_seeds: tuple[int, ...] = option((2, 3, 5, 8, 12), "numbers of seeds to look at", minimum=2, maximum=MOST_SEEDS)
    plan_prompts: tuple[int, ...] = option(
        (), "numbers of prompts to look at; default: the pilot's, a quarter and four times as many", minimum=2
    )


class Design(NamedTuple):
    """Seeds and prompts of a comparison, and the smallest true differences that it sees.

    Attributes:
        seeds: training seeds of each method.
        prompts: test prompts.
        detectable: where values vary as the pilot's did.
        cautious: where seeds vary by the upper limit of what the pilot leaves open; None where it has one seed.
    """

    seeds: int
    prompts: int
    detectable: float
    cautious: float | None


def components_of(found: Sources) -> Components:
    """Return what a pilot's record says of a difference as the statistics take it."""
    from preflab.eval.statistics.variance import Components

    seeds = found.seeds or 0.0
    return Components(seeds, found.prompts, found.rest, found.groups, (found.training_seeds, found.tested_prompts))


def designs(found: Sources, config: PowerConfig, pairs: int) -> list[Design]:
    """Return what designs see of a difference, by prompts and then by seeds; with one seed each, of the two models.

    Args:
        found: the pilot's variances of that difference.
        config: which designs.
        pairs: how many pairs of methods are tested at once: Holm's strictest step.
    """
    prompts = config.plan_prompts or tuple(max(2, round(found.tested_prompts * k)) for k in (0.25, 1, 4))
    seeds = config.plan_seeds if found.groups else (1,)
    return [design(found, config, pairs, count, many) for many in prompts for count in seeds]


def design(found: Sources, config: PowerConfig, pairs: int, seeds: int, prompts: int) -> Design:
    """Return what one design sees of a difference."""
    from preflab.eval.statistics.variance import detectable

    parts, level = components_of(found), 1.0 - (1.0 - config.level) / pairs
    kinds = [parts, parts.cautious(CAUTIOUS)] if found.groups and seeds > 1 else [parts]
    seen = [detectable(kind.at(seeds, prompts), level, config.power, planned=True) for kind in kinds]
    return Design(seeds, prompts, seen[0], seen[1] if len(seen) > 1 else None)


def fewest_seeds(found: Sources, config: PowerConfig, pairs: int, prompts: int, *, cautious: bool) -> int | None:
    """Return how many seeds see the difference that is asked for; None where no number looked at does."""
    low, high = 2, MOST_SEEDS

    def sees(seeds: int) -> bool:
        seen = design(found, config, pairs, seeds, prompts)
        return (seen.cautious if cautious else seen.detectable) <= config.difference  # type: ignore[operator]

    if not sees(high):
        return None
    while low < high:  # what is seen gets smaller with every seed
        middle = (low + high) // 2
        low, high = (low, middle) if sees(middle) else (middle + 1, high)
    return low


def read_pilot(config: PowerConfig) -> Sequence[PairTest]:
    """Return the pilot's tests.

    Raises:
        UserError: if there is no comparison, or none of its pairs says how values vary.
    """
    from preflab.eval.records.comparison import read_comparison

    path = Path(config.run)
    path = path / "comparison.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path} is not there: --run is the run folder of a finished comparison, the pilot")
    pairs = [pair for pair in read_comparison(path).pairwise if pair.sources is not None]
    if not pairs:
        raise UserError(f"{path} tests no two methods, or is of a version that kept no variances: compare again")
    return pairs


def plan_power(config: PowerConfig) -> None:
    """Print, for every pair of the pilot, what its variances are and what designs would see."""
    from preflab.errors.terminal import console, one_line

    pairs, page = read_pilot(config), console(None if sys.stdout.isatty() else WIDTH)
    for pair in pairs:
        assert pair.sources is not None
        page.print(power_table(pair, pair.sources, config, len(pairs)))
        for sentence in needed(pair.sources, config, len(pairs)):
            page.print(one_line(sentence))


def power_table(pair: PairTest, found: Sources, config: PowerConfig, pairs: int) -> RichTable:
    """Return what designs see of one pair: a row for each number of prompts, a column for each of seeds."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = designs(found, config, pairs)
    seen = f"smallest difference seen with {100 * config.power:.0f} %{f', corrected for {pairs} pairs' * (pairs > 1)}"
    title = Text(f"{pair.first} against {pair.second}, {pair.measure.replace('_', ' ')}: {_varies(found)}")
    table = Table("prompts", title=title, caption=seen, box=box.SIMPLE_HEAD)
    for seeds in dict.fromkeys(row.seeds for row in rows):
        table.add_column("1 seed" if seeds == 1 else f"{seeds} seeds", justify="right")
    for prompts in dict.fromkeys(row.prompts for row in rows):
        table.add_row(f"{prompts:,}", *(_cell(row) for row in rows if row.prompts == prompts))
    return table


def needed(found: Sources, config: PowerConfig, pairs: int) -> list[str]:
    """Return how many seeds the difference that is asked for takes; nothing where none is."""
    if not found.groups:
        return ["One seed each, these models alone: what other seeds would give, and how many it takes, is not known."]
    if config.difference is None:
        return []
    said = []
    for prompts in dict.fromkeys(row.prompts for row in designs(found, config, pairs)):
        likely, safe = (fewest_seeds(found, config, pairs, prompts, cautious=cautious) for cautious in (False, True))
        takes = f"takes {_count(likely)} seeds, or {_count(safe)} to be safe"
        said.append(f"A difference of {config.difference:g} on {prompts:,} prompts {takes}.")
    return said


def _varies(found: Sources) -> str:
    seeds = "" if found.seeds is None else f"seeds {found.seeds:.3g}, "
    design = f"{found.training_seeds} seeds and {found.tested_prompts} prompts"
    return f"deviations over {seeds}prompts {found.prompts:.3g}, rest {found.rest:.3g} ({design})"


def _cell(row: Design) -> str:
    return f"{row.detectable:.3g}" + ("" if row.cautious is None else f" ({row.cautious:.3g})")


def _count(seeds: int | None) -> str:
    return f"more than {MOST_SEEDS}" if seeds is None else str(seeds)
