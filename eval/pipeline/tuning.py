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

from eval.pipeline.searching import EVEN, TUNING_SEED, Place, Search, TuneConfig, search_space_of
from preflab.errors import UserError

if TYPE_CHECKING:
    from eval.comparison.budgets import Below
    from eval.pipeline.arena import Arena
    from eval.pipeline.entries import Entry
    from eval.records.tuning import Tuned
    from preflab.experiment.side_by_side import Piece

logger = logging.getLogger(__name__)


class Tuning(NamedTuple):
    """What tuning found.

    Attributes:
        entries: every method at its best setting.
        tuned: the record of each method that has something to tune.
        costs: what the trials took.
    """

    entries: Sequence[Entry]
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


def tune(arena: Arena, workers: int) -> Tuning:
    """Try settings of every method, and return the best of each.

    Raises:
        UserError: if nobody gives gold rewards to go by, or no trial of a method ended.
    """
    from eval.comparison.budgets import Below

    config = arena.session.config(TuneConfig)
    place = Place(arena, config)
    searches = [Search(place, entry) for entry in arena.entries if search_space_of(entry)]
    if workers > 1:
        from preflab.experiment.side_by_side import build_side_by_side

        build_side_by_side(arena.experiment.run, _pieces(arena, place, searches), workers)
    found = {search.entry.method.label: search.run() for search in searches}
    for entry in arena.entries:
        if entry.method.label not in found:
            logger.warning("%s has no setting that --tune varies: it is compared as it is", entry.method.label)
    entries = [search.best(found[search.entry.method.label]) for search in searches]
    by_label = {entry.method.label: entry for entry in entries}
    costs = [
        Below("tuning", [outcome.record for outcome in search.outcomes.values()], [search.entry.method.label])
        for search in searches
    ]
    return Tuning([by_label.get(entry.method.label, entry) for entry in arena.entries], found, costs)


def _pieces(arena: Arena, place: Place, searches: Sequence[Search]) -> list[Piece]:
    """Return the trials that hang on no other, after what they stand on."""
    from preflab.experiment.side_by_side import Piece

    ground = "what trials stand on"
    found = [Piece(ground, partial(arena.grounds, [TUNING_SEED]))]
    for number in range(min(place.config.tune, EVEN)):
        for search in searches:
            name = f"trial {number} of {search.entry.method.label}"
            found.append(Piece(name, partial(_attempt, search, number), (ground,)))
    return found


def _attempt(search: Search, number: int) -> None:
    """Make a trial ahead; who asks for it hears why it failed."""
    try:
        search.attempt(number, search.even(number))
    except UserError as error:
        logger.info("%s", error)
