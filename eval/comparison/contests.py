"""Methods against each other: who wins, whether that could be chance, and the ranking it makes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from preflab.errors import UserError
from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.uncertainty import sources
from preflab.eval.metrics import win_rate
from preflab.eval.metrics.reward import GOLD
from preflab.eval.records.columns import needed
from preflab.eval.records.comparison import PairTest, Place, Untested
from preflab.eval.records.figures import Figure
from preflab.eval.records.records import Records
from preflab.eval.statistics import Difference, Estimate, bradley_terry, compare, compare_wins, holm, verdict

Array = NDArray[np.float64]

Decide = Callable[[Records, Records], Array]
"""Who answered better, ``[N]``: 1 the first, 0 the second, 0.5 a tie; NaN where nobody said."""


FEWEST = 2
"""Prompts that a test takes: one says nothing of others. For a verdict it takes more, see `fewest_prompts`."""

NO_SPREAD = "one difference on every prompt: no spread to make an interval of"

Games = Mapping[tuple[str, str], Array]
"""How often the first of two methods answers better, ``[S, N]``, by their names; see `head_to_head`."""


def by_gold(first: Records, second: Records) -> Array:
    """Decide by the judge's scores.

    Raises:
        UserError: if a response has none, or one that is not finite.
    """
    scores, others = (needed([records.samples], "gold")[0] for records in (first, second))
    return win_rate.per_prompt(scores, others)


def play(contestants: Sequence[Contestant], decide: Decide) -> dict[tuple[str, str], Array]:
    """Return the games of every two methods; who comes first in the list is the first of a pair."""
    return {(a.name, b.name): head_to_head(a, b, decide) for a, b in combinations(contestants, 2)}


def head_to_head(first: Contestant, second: Contestant, decide: Decide) -> Array:
    """Return how often the first answers better, ``[S, N]``: seed against seed, in turn where one has fewer.

    S is the larger number of seeds, so that a judge that costs something is asked no more than every model needs.
    """
    many = max(len(first.records), len(second.records))
    pairs = [(first.records[i % len(first.records)], second.records[i % len(second.records)]) for i in range(many)]
    return np.stack([decide(*pair) for pair in pairs])


def compare_pairs(
    contestants: Sequence[Contestant], games: Games, *, scored: bool, start: Contestant | None = None
) -> list[PairTest]:
    """Return the test of every pair of methods that met, corrected over all of these (Holm 1979).

    Where a comparing judge gave no answer, prompts, seeds and whole pairs are left out; `untested` says which pairs.

    Args:
        contestants: the methods.
        games: of every two of them that are to be tested, as `play` returns them.
        scored: whether the judge gives gold rewards, whose mean is then tested; else it is the share of wins less
            that of the other.
        start: whose gold rewards effects are in standard deviations of.

    Raises:
        UserError: if only one prompt was answered.
    """
    if any(table.shape[1] == 1 for table in games.values()):
        raise UserError(
            "methods were evaluated on one prompt, from which nothing follows about others: give two or more, "
            "such as --eval-prompts 100"
        )
    played = [(a, b) for a, b in combinations(contestants, 2) if (a.name, b.name) in games]
    met = [((a, b), _independent(a, b, games[a.name, b.name])) for a, b in played]
    met = [(pair, table) for pair, table in met if _common(table) >= FEWEST]
    pairs, wins = [pair for pair, _ in met], [table for _, table in met]
    if not pairs:
        return []
    tested = [_tested(*pair, table, scored, len(pairs)) for pair, table in zip(pairs, wins, strict=True)]
    adjusted = holm([difference.p for _, difference in tested])
    spread = _spread(start)
    return [
        PairTest(
            first=first.name,
            second=second.name,
            measure=measure,
            difference=_noted(difference.estimate),
            win_rate=Figure.of(win_rate.WIN_RATE.estimate(table)),
            **_shares(first, second, games[first.name, second.name]),
            p=difference.p,
            p_adjusted=float(p),
            detectable=_known(difference.detectable),
            verdict=verdict(difference.estimate.mean, float(p)),
            sources=sources(difference.components),
            effect=_in_units(difference.estimate, spread) if spread and measure == GOLD.key else None,
        )
        for (first, second), table, (measure, difference), p in zip(pairs, wins, tested, adjusted, strict=True)
    ]


def _known(detectable: float) -> float | None:
    """Return a detectable difference; None where nothing varies, so that nobody knows, and where none can be seen."""
    return detectable if 0.0 < detectable < math.inf else None


def _spread(start: Contestant | None) -> float | None:
    """Return the standard deviation of the start's gold rewards, over prompts and draws; None where there is none."""
    gold = None if start is None else start.table("gold")
    return None if gold is None or gold.size < FEWEST else float(gold.std(ddof=1)) or None


def _in_units(estimate: Estimate, unit: float) -> Figure:
    """Return an estimate in units of something that is taken as known."""
    mean, low, high = (value / unit for value in (estimate.mean, estimate.low, estimate.high))
    return Figure.of(estimate._replace(mean=mean, low=low, high=high))


def untested(contestants: Sequence[Contestant], games: Games) -> list[Untested]:
    """Return every pair that somebody judged, but not so that it can be tested."""
    found = []
    for first, second in combinations(contestants, 2):
        table = games[first.name, second.name]
        prompts, common = np.isfinite(table).any(0).sum(), _common(_independent(first, second, table))
        if prompts == 0 or common >= FEWEST:
            continue
        reason = f"not tested, judged on {prompts} prompt{'s' * bool(prompts > 1)}"
        if prompts > 1:
            each = ", ".join(f"{row.sum()} of seed {at}" for at, row in enumerate(np.isfinite(table)) if row.any())
            shared = "none" if common == 0 else "only one"
            reason += f" ({each}), of which {shared} was judged for all of these seeds: judge the same for every seed"
        else:
            reason += ": nothing follows from one about others"
        found.append(Untested(first=first.name, second=second.name, reason=reason))
    return found


def rank(contestants: Sequence[Contestant], games: Games, tests: Sequence[PairTest]) -> list[Place]:
    """Return the methods best first, with Bradley-Terry strengths from the prompts that all pairs were decided on.

    Places are those that the corrected `tests` of `compare_pairs` leave open, so that the ranking claims no more than
    they do: a rating is of wins, has an interval of its own, and is corrected for nothing. Methods that as many others
    beat stand in the order of their ratings. Of methods with several seeds, as many are rated as all of these have:
    so many games of two methods have no model in common.
    """
    seeds = min((len(c.records) for c in contestants if len(c.records) > 1), default=1)
    wins = {pair: table[:seeds] for pair, table in games.items()}
    decided = np.all([np.isfinite(table).all(0) for table in wins.values()], axis=0)
    if decided.sum() < FEWEST:
        return []
    ranks = bradley_terry([c.name for c in contestants], {pair: table[:, decided] for pair, table in wins.items()})
    beaten = Counter(test.loser for test in tests)
    beats = Counter(test.winner for test in tests)
    # A mean reward may be won by few wide margins, and most games lost: what the tests say goes first.
    ranks.sort(key=lambda place: beaten[place.method])
    return [
        Place(
            method=place.method,
            rating=Figure.of(place.rating),
            rank_low=1 + beaten[place.method],
            rank_high=len(ranks) - beats[place.method],
            separated=place.separated,
        )
        for place in ranks
    ]


def _independent(first: Contestant, second: Contestant, games: Array) -> Array:
    """Return what was decided of `head_to_head`, ``[S, N]``, as rows of which no two have a model in common.

    Seeds without any decision are left out, and then prompts that are not decided for all others. Where one side has
    fewer seeds than the other, but several, each of them met several models: the mean of its games is one row. Where
    only one model of a side is left, the question is about it, and rows stay what they are.
    """
    asked = np.flatnonzero(np.isfinite(games).any(1))
    games = games[asked]
    games = games[:, np.isfinite(games).all(0)]
    models = models_of(first, second, asked)
    return np.stack([games[models == model].mean(0) for model in np.unique(models)]) if len(asked) > 1 else games


def models_of(first: Contestant, second: Contestant, asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each row of `head_to_head` that was `asked` about, ``[S]``: one for rows that share a model.

    Where only one model of a side is left, the question is about it, and each row has a number of its own.
    """
    model = asked % min(len(first.records), len(second.records))
    return model if len(np.unique(model)) > 1 else asked


def _shares(first: Contestant, second: Contestant, games: Array) -> dict[str, Figure]:
    """Return the shares of games ``[S, N]`` that the first won, tied and lost."""
    tables = {outcome: _independent(first, second, outcome.values(games)) for outcome in win_rate.OUTCOMES}
    return {outcome.key: Figure.of(outcome.estimate(table)) for outcome, table in tables.items()}


def _common(table: Array) -> int:
    """Return on how many prompts the rows of `_independent` stand."""
    return table.shape[1] if len(table) else 0


def _tested(
    first: Contestant, second: Contestant, games: Array, scored: bool, comparisons: int
) -> tuple[str, Difference]:
    """Return what is tested, and how it came out."""
    gold, other = first.table("gold"), second.table("gold")
    if scored and gold is not None and other is not None:
        paired = first.replicated and second.replicated
        return GOLD.key, compare(gold, other, comparisons=comparisons, paired=paired)
    return win_rate.WIN_RATE.key, compare_wins(games, comparisons=comparisons)


def _noted(estimate: Estimate) -> Figure:
    """Return a difference as a figure, with what its interval rests on where that is no spread."""
    return Figure.of(estimate, note=NO_SPREAD if estimate.low == estimate.high else None)
