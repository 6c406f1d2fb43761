"""How far two judges of the same pairs agree, beyond what chance would give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics.intervals import Estimate, interval

Array = NDArray[np.float64]


class Agreement(NamedTuple):
    """How far two judges agree.

    Attributes:
        share: of the pairs on which both say the same: first, second or tie.
        kappa: (share − chance) / (1 − chance), with the interval that this makes of the share's; None where chance
            alone makes them agree on all, since both always say tie.
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
    chance = float(t * u + (1 - t) * (1 - u) / 2)
    if chance == 1.0:
        return Agreement(share, None)
    mean, low, high = ((value - chance) / (1 - chance) for value in share[:3])
    return Agreement(share, share._replace(mean=mean, low=low, high=high))
