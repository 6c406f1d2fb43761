"""The penalised fit against a grid, its weights, and what it does where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from preflab.eval.statistics import length_controlled_win_rate
from preflab.eval.statistics.lasso import FOLDS, WEIGHTS, _fitted, cross_validated


def games(theta, phi, count, seed=0, ties=0.0):
    draw = np.random.default_rng(seed)
    longer = draw.normal(size=count) * 100
    won = (draw.random(count) < expit(theta + phi * np.tanh(longer / longer.std(ddof=1)))).astype(float)
    return np.where(draw.random(count) < ties, 0.5, won), longer


@pytest.mark.parametrize("weight", [0.01, 1.0, 100.0])
def test_the_fit_is_the_minimum(weight):
    won, longer = games(0.5, -0.8, 60, ties=0.2)
    feature = np.tanh(longer / longer.std(ddof=1))

    def loss(theta, phi):
        logit = theta[..., None] + phi[..., None] * feature
        return abs(theta) + abs(phi) + weight * (np.logaddexp(0.0, logit) - won * logit).sum(-1)

    theta, phi = _fitted(won, feature, weight)
    around = np.linspace(-1e-3, 1e-3, 41)
    grid = loss(*np.meshgrid(theta + around, phi + around))
    assert loss(np.array(theta), np.array(phi)) <= grid.min() + 1e-9
    assert (weight > 0.02) == (theta != 0.0), "a strong penalty leaves nothing"


def test_the_weight_is_the_one_that_predicts_best():
    """By the rule, in plain loops."""
    won, longer = games(0.3, 1.0, 53, seed=4, ties=0.1)
    feature = np.tanh(longer / longer.std(ddof=1))
    losses = []
    for weight in WEIGHTS:
        folds = []
        for fold in range(FOLDS):
            out = np.array([(52 - i) % FOLDS == fold for i in range(53)])
            theta, phi = _fitted(won[~out], feature[~out], weight)
            chance = expit(theta + phi * feature[out])
            folds.append(-np.mean(won[out] * np.log(chance) + (1 - won[out]) * np.log(1 - chance)))
        losses.append(np.mean(folds))
    found = cross_validated(won[None, None], feature[None, None])
    assert found.weight == WEIGHTS[np.argmin(losses)]
    assert found[:2] == _fitted(won, feature, found.weight)


def test_with_many_games_it_is_the_other_fit():
    won, longer = games(0.6, 1.5, 20_000, seed=2)
    found, prior = (length_controlled_win_rate(won, longer, fit=fit) for fit in ("alpaca_eval", "prior"))
    assert found.win_rate.mean == pytest.approx(expit(0.6), abs=0.01)
    np.testing.assert_allclose(found.win_rate[:3], prior.win_rate[:3], atol=5e-4)
    assert found.length_effect == pytest.approx(prior.length_effect, abs=0.01)


def test_the_interval_is_as_wide_as_the_other_fits():
    won, longer = games(0.4, 0.8, 600, seed=3, ties=0.1)
    found, prior = (length_controlled_win_rate(won, longer, fit=fit).win_rate for fit in ("alpaca_eval", "prior"))
    assert found.high - found.low == pytest.approx(prior.high - prior.low, rel=0.05)
    assert found.low < found.mean < found.high


def test_games_of_a_prompt_are_in_one_fold_and_nothing_is_no_error():
    won, longer = games(0.4, 0.8, 40)
    twice = length_controlled_win_rate(np.tile(won, (2, 3, 1)), np.tile(longer, (2, 3, 1)), fit="alpaca_eval")
    assert twice.win_rate.mean == pytest.approx(expit(0.4), abs=0.2)
    none = length_controlled_win_rate(np.tile([0.0, 1.0], 20), longer, fit="alpaca_eval")
    assert none.win_rate.mean == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="4 prompts; cross-validation takes 5"):
        length_controlled_win_rate(won[:4], longer[:4], fit="alpaca_eval")
