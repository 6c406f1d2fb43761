"""What the interpolation benchmark makes of places; the exact world's own tests hold the mixtures to loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.validity.interpolation import PRICES, RUNS, Ground, Place, row
from preflab.eval.conformance.exact import Position, kl
from preflab.eval.frontier import exact_oracle
from preflab.method.configured import make_method
from preflab.method.maths import kl_regularised_optimum


@pytest.fixture(scope="module")
def ground():
    """Two prompts, forty responses, rewards and probabilities at random."""
    rng = np.random.default_rng(0)
    reference = torch.tensor(rng.normal(size=(2, 40))).log_softmax(1)
    rewards = torch.tensor(rng.normal(size=(2, 40)))

    def position(logps):
        return Position((logps.exp() * rewards).sum(1), kl(logps, reference))

    return Ground(SimpleNamespace(reference=reference, rewards=rewards, position=position))


def optimum(ground, beta, noise=0.0):
    exact = ground.exact
    tilt = exact.rewards + noise * torch.tensor(np.random.default_rng(1).normal(size=(2, 40)))
    return ground.place(kl_regularised_optimum(exact.reference, tilt, beta, torch.ones(2, 40, dtype=torch.bool)))


def test_an_optimum_has_all_that_is_attainable_and_another_policy_less(ground):
    best, other = optimum(ground, 0.5), optimum(ground, 0.5, noise=1.0)
    assert best.share == pytest.approx(1.0, abs=1e-3)  # the line's grid
    assert other.share < 0.95
    line = exact_oracle(ground.exact.reference.numpy(), ground.exact.rewards.numpy())
    room = line.reward(other.kl) - line.reference.mean()
    assert other.share == pytest.approx((other.reward - line.reference.mean()) / room)


def test_an_optimum_is_neither_over_nor_under_a_sweep_of_optima(ground):
    sweep = [optimum(ground, beta) for beta in (2.0, 0.25, 1.0)]  # in any order
    assert ground.over(sweep, optimum(ground, 0.6)) == pytest.approx(0.0, abs=1e-3)


def test_what_lies_over_a_sweep_does_so_by_reward(ground):
    sweep = [optimum(ground, beta, noise=1.0) for beta in (2.0, 1.0, 0.5)]
    inner = optimum(ground, 1.0)
    found = ground.over(sweep, inner)
    places, rewards = [math.sqrt(one.kl) for one in sorted(sweep)], [one.reward for one in sorted(sweep)]
    roughly = inner.reward - np.interp(math.sqrt(inner.kl), places, rewards)
    assert found > 0.1
    assert found == pytest.approx(roughly, abs=0.02)  # rewards bend between settings
    at_a_setting = sweep[1]._replace(reward=9.0, share=sweep[1].share + 0.1)
    assert ground.over(sweep, sweep[1]) == pytest.approx(0.0, abs=1e-12)
    assert ground.over(sweep, at_a_setting) > 0


def test_nothing_is_said_where_a_sweep_does_not_reach(ground):
    sweep = [optimum(ground, beta) for beta in (2.0, 0.5)]
    assert ground.over(sweep, optimum(ground, 4.0)) is None
    assert ground.over(sweep, optimum(ground, 0.25)) is None


def test_a_row_is_the_mean_over_seeds_and_a_dash_where_one_is_out_of_reach():
    seeds = [(Place(1.0, 2.0, 0.9), -0.1), (Place(2.0, 4.0, 0.8), 0.3)]
    expected = ["dpo", "weights scaled", "λ = 0.5", "1.50", "3.00", "85.0", "+0.100 [-0.100, +0.300]"]
    assert row("dpo", "weights scaled", "λ = 0.5", seeds) == expected
    assert row("dpo", "sweep", "β = 1", [seeds[0], (seeds[1][0], None)])[-1] == "–"


def test_every_method_has_a_price_of_kl():
    for told in RUNS.values():
        assert len(PRICES.settings(make_method(told.method))) == len(PRICES.values)
