"""How far judges of the same pairs agree, two or more, beyond what chance would give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.intervals import Estimate, interval

Array = NDArray[np.float64]


class Agreement(NamedTuple):
    """How far judges agree.

    Attributes:
        share: of the pairs on which both say the same: first, second or tie; of several judges, any two.
        kappa: (share − chance) / (1 − chance), with the interval that this makes of the share's; None where chance
            alone makes them agree on all, since they always say tie.
    """

    share: Estimate
    kappa: Estimate | None


def agreement(one: ArrayLike, other: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95) -> Agreement:
    """Return how far two judges agree, whichever response of a pair is called first.

    Chance is that of two judges who say tie as often as these do, and otherwise say first or second by a coin:
    ``t·u + (1 − t)(1 − u)/2`` (Cohen 1960, Educational and Psychological Measurement 20, with the marginals that no
    order of responses changes). It is taken as known: its own error widens kappa's interval by a hundredth or two.

    Args:
        one: ``[N]`` verdicts: above 0.5 the first is better, 0.5 a tie, below it the second.
        other: ``[N]`` those of the other judge.
        groups: ``[N]`` which prompt a pair is of; None: each of its own.
        level: confidence level.

    Raises:
        ValueError: if there are no pairs, or shapes differ.
    """
    a, b = (np.sign(np.asarray(values, dtype=np.float64) - 0.5) for values in (one, other))
    if a.shape != b.shape:
        raise ValueError(f"verdicts have shapes {a.shape} and {b.shape}; expected the same pairs, [N]")
    share = interval((a == b).astype(np.float64), level=level, rate=True, groups=groups)
    t, u = (a == 0).mean(), (b == 0).mean()
    return _beyond(float(t * u + (1 - t) * (1 - u) / 2), share)


def agreement_of_several(verdicts: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95) -> Agreement:
    """Return how far any number of judges agree, each of whom may have judged some of the pairs only.

    The share is the chance that two judges of a pair say the same, averaged over the pairs that have two or more.
    Chance is that of two who say tie as often as all of these together, a share t of their verdicts, and otherwise say
    first or second by a coin: ``t² + (1 − t)²/2`` (Scott 1955, Public Opinion Quarterly 19, for two; Fleiss 1971,
    Psychological Bulletin 76, for several; with marginals that no order of responses changes). Krippendorff's alpha of
    such data differs by a term of one over the number of verdicts. Chance is taken as known, as in `agreement`.

    Args:
        verdicts: ``[N, A]`` of A judges, as in `agreement`; NaN where one did not judge a pair.
        groups: ``[N]`` which prompt a pair is of; None: each of its own.
        level: confidence level.

    Raises:
        ValueError: if no pair has two verdicts, or shapes differ.
    """
    table = np.asarray(verdicts, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"verdicts have shape {table.shape}; expected pairs by judges, [N, A]")
    shared = np.isfinite(table).sum(1) > 1
    if not shared.any():
        raise ValueError("no pair has verdicts of two judges")
    said = np.sign(table[shared] - 0.5)
    counts = np.stack([(said == word).sum(1) for word in (-1, 0, 1)], 1)
    both = counts.sum(1) * (counts.sum(1) - 1)
    same = (counts * (counts - 1)).sum(1) / both
    share = interval(same, level=level, rate=True, groups=None if groups is None else np.asarray(groups)[shared])
    ties = float(counts[:, 1].sum() / counts.sum())
    return _beyond(ties**2 + (1 - ties) ** 2 / 2, share)


def _beyond(chance: float, share: Estimate) -> Agreement:
    """Return a share with what of it is beyond chance."""
    if chance == 1.0:
        return Agreement(share, None)
    mean, low, high = ((value - chance) / (1 - chance) for value in share[:3])
    return Agreement(share, share._replace(mean=mean, low=low, high=high))
