"""Where a comparison's uncertainty comes from, as its record says."""

from __future__ import annotations

import numpy as np
import pytest

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.uncertainty import replications, sources
from preflab.eval.records.records import Records
from preflab.eval.statistics.variance import Components


def contestant(name, gold, **fields):
    """Make a method of gold rewards ``[S, N]``."""
    return Contestant(name, [Records([{"gold": float(x)} for x in row], []) for row in gold], **fields)


def methods(rng, shared, own, count, seeds, prompts=4):
    common = shared * rng.normal(size=(seeds, 1))
    means = [common + own * rng.normal(size=(seeds, 1)) for _ in range(count)]
    return [contestant(f"m{k}", mean + np.zeros((seeds, prompts)), replicated=True) for k, mean in enumerate(means)]


def test_what_replications_share_is_told_from_what_is_a_methods_own():
    rng = np.random.default_rng(0)
    found = [replications(methods(rng, 0.3, 0.1, 3, 4)) for _ in range(1500)]
    assert np.mean([one.shared**2 for one in found]) == pytest.approx(0.3**2, rel=0.08)
    assert np.mean([one.own**2 for one in found]) == pytest.approx(0.1**2, rel=0.08)
    assert (found[0].methods, found[0].training_seeds) == (3, 4)


def test_nothing_is_said_where_methods_share_nothing():
    rng = np.random.default_rng(0)
    alone = [contestant(name, rng.normal(size=(3, 4))) for name in ("dpo", "ppo")]
    assert replications(alone) is None
    assert replications(methods(rng, 1.0, 1.0, 1, 3)) is None
    assert replications(methods(rng, 1.0, 1.0, 3, 1)) is None


def test_shares_add_up_and_are_of_the_squared_standard_error():
    found = sources(Components(0.2, 0.5, 1.0, 1, (4, 100)))
    squares = np.array([0.2**2 / 4, 0.5**2 / 100, 1.0 / 400])
    assert [found.shares.seeds, found.shares.prompts, found.shares.rest] == pytest.approx(squares / squares.sum())
    one = sources(Components(0.0, 0.5, 0.0, 0, (1, 100)))
    assert one.seeds is None
    assert (one.shares.seeds, one.shares.prompts) == (0.0, 1.0)


def test_values_that_do_not_vary_have_no_shares():
    found = sources(Components(0.0, 0.0, 0.0, 1, (3, 10)))
    assert (found.shares.seeds, found.shares.prompts, found.shares.rest) == (0.0, 0.0, 0.0)
