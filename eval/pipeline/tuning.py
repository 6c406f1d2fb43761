"""``--tune``: every method's settings tried alike on prompts set aside, before it is compared at the best of them.

The trials of all methods are equal in number, stand on a replication of their own, and are judged on training prompts
that are set aside; test prompts answer to the chosen setting alone, with fresh seeds. Each study is Optuna's, in the
run folder: the first trials lie evenly in the space (a Halton sequence), later ones go where the tree-structured Parzen
estimator (Bergstra et al. 2011) expects most. Nothing is pruned, which would make budgets unequal.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from preflab.errors import UserError
from preflab.eval.pipeline.searching import EVEN, TUNING_SEED, Place, Search, TuneConfig, search_space_of
from preflab.execution.graph import Graph, Piece

if TYPE_CHECKING:
    from preflab.eval.comparison.budgets import Below
    from preflab.eval.pipeline.arena import Arena
    from preflab.eval.records.tuning import Tuned

logger = logging.getLogger(__name__)


class Tuning(NamedTuple):
    """What tuning found.

    Attributes:
        best: the best settings of each method that has something to tune, by its label.
        tuned: the record of each.
        costs: what the trials took.
    """

    best: Mapping[str, Mapping[str, float]]
    tuned: Mapping[str, Tuned]
    costs: Sequence[Below]


def check_tuning(config: TuneConfig, seeds: Sequence[int], sweep: str | None) -> None:
    """Refuse what could not be tuned, before anything is opened.

    Raises:
        UserError: if Optuna is not installed, a compared seed is that of the trials, or settings are swept besides.
    """
    if config.tune and sweep is not None:
        raise UserError("--tune finds one setting of each method, and --sweep compares several; keep one of the two")
    if config.tune and importlib.util.find_spec("optuna") is None:
        raise UserError("--tune searches with Optuna, which is not installed: pip install 'preflab[tune]'")
    if config.tune and TUNING_SEED in seeds:
        raise UserError(f"seed {TUNING_SEED} is that of the trials of --tune, and no compared seed; choose another")


def searches_of(arena: Arena) -> list[Search]:
    """Return the searches of a comparison: of each method that has a setting to vary."""
    config = arena.session.config(TuneConfig)
    place = Place(arena, config)
    return [Search(place, entry) for entry in arena.entries if search_space_of(entry)] if config.tune else []


def tuning_graph(arena: Arena, searches: Sequence[Search]) -> Graph:
    """Return what tuning builds: trials that hang on no other side by side, then of each method those that do."""
    below, trials, later = arena.pieces_below([TUNING_SEED]), [], []
    needs = arena.judged_on(TUNING_SEED)
    for number in range(EVEN):
        for search in (one for one in searches if number < one.count):
            name = search.stage_name(number)
            trials.append(Piece(name, partial(_attempt, search, number), needs, (name, f"eval-{name}")))
    for search in (one for one in searches if one.count > EVEN):
        names = tuple(search.stage_name(number) for number in range(EVEN, search.count))
        before = tuple(search.stage_name(number) for number in range(EVEN))
        stages = tuple(stage for name in names for stage in (name, f"eval-{name}"))
        title = f"later trials of {search.entry.method.label}"
        later.append(Piece(title, partial(_go_on, search), before, stages))
    return Graph([*below, *trials, *later])


def tuned(arena: Arena, searches: Sequence[Search]) -> Tuning:
    """Return the best setting of every method, of the trials that a `tuning_graph` has built.

    Args:
        arena: where methods meet.
        searches: as `searches_of` returns them.

    Raises:
        UserError: if nobody gives gold rewards to go by, or no trial of a method ended.
    """
    from preflab.eval.comparison.budgets import Below

    found = {search.entry.method.label: search.run() for search in searches}
    for entry in arena.entries:
        if entry.method.label not in found:
            logger.warning("%s has no setting that --tune varies: it is compared as it is", entry.method.label)
    best = {name: trials.trials[trials.chosen].settings for name, trials in found.items()}
    costs = [
        Below("tuning", [outcome.record for outcome in search.outcomes.values()], [search.entry.method.label])
        for search in searches
    ]
    return Tuning(best, found, costs)


def _attempt(search: Search, number: int) -> None:
    """Make a trial ahead; who asks for it hears why it failed."""
    try:
        search.build(number, search.even(number))
    except UserError as error:
        search.failed[number] = error


def _go_on(search: Search) -> None:
    """Make the trials whose settings hang on others."""
    if not search.place.arena.is_outline:
        search.run()
