"""Several judges of the same pairs: worked by hand, against a loop, in the limits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from preflab.eval.statistics import agreement, agreement_of_several

NAN = np.nan


def by_a_loop(table):
    """Return share and kappa, two judges of a pair at a time."""
    shares, said = [], []
    for row in table:
        there = [value for value in row if np.isfinite(value)]
        if len(there) > 1:
            both = list(combinations(there, 2))
            shares.append(sum(np.sign(a - 0.5) == np.sign(b - 0.5) for a, b in both) / len(both))
            said += there
    t = sum(value == 0.5 for value in said) / len(said)
    chance = t**2 + 2 * ((1 - t) / 2) ** 2
    return np.mean(shares), (np.mean(shares) - chance) / (1 - chance)


def test_by_hand():
    # Agreement 1, 1/3 and 0, of which the mean is 4/9; 2 of 8 verdicts are ties: chance 1/16 + 2 (3/8)² = 11/32.
    table = [[1, 1, 1], [0, 0, 0.5], [1, NAN, 0.5], [NAN, NAN, 0.0]]
    found = agreement_of_several(table)
    assert found.share.mean == pytest.approx(4 / 9)
    assert found.share.n == 3
    assert found.kappa.mean == pytest.approx((4 / 9 - 11 / 32) / (1 - 11 / 32))


def test_as_a_loop_counts_it():
    rng = np.random.default_rng(0)
    table = rng.choice([0, 0.5, 1], size=(200, 4), p=[0.3, 0.1, 0.6])
    table[rng.random(table.shape) < 0.4] = NAN
    found = agreement_of_several(table)
    assert (found.share.mean, found.kappa.mean) == pytest.approx(by_a_loop(table))
    assert found.share.low < found.share.mean < found.share.high
    scale = (found.kappa.high - found.kappa.low) / (found.share.high - found.share.low)
    assert scale == pytest.approx((1 - found.kappa.mean) / (1 - found.share.mean)), "the share's interval, stretched"


def test_two_judges_who_tie_equally_often_are_as_by_the_function_for_two():
    one, other = [1, 0, 0.5, 1, 1, 0], [1, 0.5, 0, 1, 0, 0]
    assert agreement_of_several(np.transpose([one, other])) == agreement(one, other)


def test_which_response_comes_first_changes_nothing():
    rng = np.random.default_rng(1)
    table = rng.choice([0, 0.5, 1, NAN], size=(60, 3))
    turned = np.where(rng.random((60, 1)) < 0.5, table, 1 - table)
    assert agreement_of_several(turned) == agreement_of_several(table)


def test_pairs_of_one_prompt_are_not_independent():
    table = np.repeat([[1, 1], [0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], 5, axis=0)
    alone, grouped = (agreement_of_several(table, groups).share for groups in (None, np.repeat(range(6), 5)))
    assert alone.mean == grouped.mean
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_limits():
    same = agreement_of_several([[1, 1], [0, 0], [0.5, 0.5]])
    assert (same.share.mean, same.kappa.mean) == (1, 1)
    assert same.kappa.low < 1, "three pairs are no certainty"
    rng = np.random.default_rng(2)
    chance = agreement_of_several(rng.choice([0, 0.5, 1], size=(20_000, 2)))
    assert chance.kappa.mean == pytest.approx(0, abs=0.02)
    assert agreement_of_several([[0.5, 0.5]] * 4).kappa is None
    with pytest.raises(ValueError, match="two judges"):
        agreement_of_several([[1, NAN], [NAN, 0]])
    with pytest.raises(ValueError, match="expected pairs by judges"):
        agreement_of_several([1, 0])
