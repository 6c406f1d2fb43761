"""The oracle line in the exact world, where everything about it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from preflab.eval.frontier import attainable, exact_oracle, sampled_oracle, under_the_line
from preflab.worlds.exact import draw


@pytest.fixture(scope="module")
def world(exact):
    """log π_ref and r, ``[X, N]``."""
    return exact.reference.numpy(), exact.rewards.numpy()


@pytest.fixture(scope="module")
def oracle(world):
    return exact_oracle(*world)


def sample(world, rows, samples, seed):
    """Rewards of samples of the reference, each prompt as often as it takes to fill the rows."""
    logps, rewards = world
    places = np.arange(rows) % len(logps)
    found = draw(logps, places, np.random.default_rng(seed).random((samples, rows))).T
    return rewards[places[:, None], found]


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_kl_optimum_lies_on_the_line(exact, oracle, beta):
    best = exact.position(exact.kl_optimum(beta))
    gain = best.reward.mean().item() - oracle.reference.mean()
    line = oracle.reward(best.kl.mean().item())
    assert line == pytest.approx(best.reward.mean().item(), abs=2.5e-4 * gain)  # the grid of b: 2e-4
    share = attainable(best.reward.numpy(), best.kl.numpy(), oracle)
    assert share.mean == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_other_policies_lie_under_it(exact, oracle, seed):
    noise = torch.tensor(np.random.default_rng(seed).normal(size=tuple(exact.rewards.shape)))
    for scale in (0.1, 1.0):
        place = exact.position((exact.kl_optimum(1.0) + scale * noise).log_softmax(1))
        found = under_the_line(place.reward.numpy(), place.kl.numpy(), oracle)
        assert found.holds
        assert found.excess.mean < 0


@pytest.mark.parametrize(("samples", "least"), [(16, 0.2), (64, 0.6), (256, 1.5)])
@pytest.mark.parametrize("seed", range(3))
def test_the_sampled_line_keeps_two_percent_as_far_as_it_is_trusted(world, oracle, samples, least, seed):
    found = sampled_oracle(sample(world, 16384 // samples, samples, seed))
    assert found.trusted_kl >= least
    kl = np.linspace(0.02, math.sqrt(found.trusted_kl), 50) ** 2
    gain, true = found.reward(kl) - found.reference.mean(), oracle.reward(kl) - oracle.reference.mean()
    assert np.abs(gain / true - 1).max() <= 0.02


def test_few_samples_are_not_trusted(world):
    assert sampled_oracle(sample(world, 4, 64, 0)).trusted_kl == 0.0
