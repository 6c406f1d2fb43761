"""How long texts are: quantiles, and by how much chosen responses are longer than rejected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = {"5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "longest": 1.0}


@dataclass(frozen=True)
class Lengths:
    """Lengths of prompts, or of the responses on one side.

    Attributes:
        of: what they are of.
        count: how many.
        quantiles: by name.
        limit: the longest that is not dropped or cut; None where there is none.
        over: how many are longer.
    """

    of: str
    count: int
    quantiles: dict[str, int]
    limit: int | None
    over: int


@dataclass(frozen=True)
class Bias:
    """By how much chosen responses are longer than rejected ones.

    Attributes:
        pairs: how many there are.
        longer_chosen: share of those of unequal length in which the chosen one is the longer.
        difference: mean length of chosen minus rejected.
    """

    pairs: int
    longer_chosen: float
    difference: float


def lengths_of(of: str, lengths: Sequence[int], limit: int | None) -> Lengths:
    """Return what is to be said of some lengths, of which there is one at least."""
    values = np.asarray(lengths)
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    quantiles = {name: int(value) for name, value in zip(QUANTILES, found, strict=True)}
    return Lengths(of, len(values), quantiles, limit, 0 if limit is None else int((values > limit).sum()))


def bias_of(chosen: Sequence[int], rejected: Sequence[int]) -> Bias | None:
    """Return by how much chosen responses are longer; None without pairs."""
    if not chosen:
        return None
    difference = np.asarray(chosen) - np.asarray(rejected)
    unequal = difference[difference != 0]
    share = float((unequal > 0).mean()) if len(unequal) else 0.5
    return Bias(len(difference), share, float(difference.mean()))
