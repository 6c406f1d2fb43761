"""Held-out preferences: each metric against a second computation, and the summary against the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from preference_scores import calibrated
from scipy.special import expit, logit

from preflab.eval.metrics import (
    load,
    preference_auc,
    preference_brier,
    preference_calibration,
    preference_log_loss,
    probability,
)

# ---- AUC ----


def test_area_is_the_share_of_combinations_in_order(generator: np.random.Generator) -> None:
    high, low = generator.integers(6, size=40).astype(float), generator.integers(5, size=30).astype(float)
    expected = np.mean([(a > b) + (a == b) / 2 for a in high for b in low])
    assert preference_auc.area(high, low) == pytest.approx(expected, abs=1e-14)
    assert preference_auc.area(low, high) == pytest.approx(1 - expected, abs=1e-14)
    # Whole tables agree with the classes as such, whatever is paired with what.
    other = generator.permutation(high[:30])
    assert preference_auc.per_prompt(high[:30], low).mean() == pytest.approx(preference_auc.area(other, low), abs=1e-14)


def test_area_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="no negative scores; an area needs at least one score of each class"):
        preference_auc.area([1.0], [])
    with pytest.raises(ValueError, match="no positive scores"):
        preference_auc.area([], [1.0])
    with pytest.raises(ValueError, match=r"negative\[1\] is nan"):
        preference_auc.area([1.0], [0.0, math.nan])


def test_auc_is_over_all_prompts_and_accuracy_within_each() -> None:
    # Each pair is in order, but the second prompt's scores lie below the first's: of 4 combinations 3 are in order.
    result = load("preference_auc").compute(chosen_score=[3.0, 1.0], rejected_score=[2.0, 0.0])
    assert result["auc"] == 0.75
    assert load("preference_accuracy").compute(chosen_score=[3.0, 1.0], rejected_score=[2.0, 0.0])["accuracy"] == 1.0


def test_auc_interval_is_the_bootstrap_over_pairs(generator: np.random.Generator) -> None:
    n, prompt = 120, generator.normal(size=120)
    chosen, rejected = prompt + generator.normal(size=n) + 1, prompt + generator.normal(size=n)
    draws = [generator.integers(n, size=n) for _ in range(1000)]
    low, high = np.quantile([preference_auc.area(chosen[at], rejected[at]) for at in draws], [0.025, 0.975])
    result = load("preference_auc").compute(chosen_score=chosen, rejected_score=rejected)
    # Ends of a percentile bootstrap of 1,000 have a standard error of about 5 % of the half width (.06).
    assert (result["low"], result["high"]) == pytest.approx((low, high), abs=0.01)


def test_auc_of_perfect_separation_claims_no_certainty() -> None:
    result = load("preference_auc").compute(chosen_score=[3.0] * 20, rejected_score=[1.0] * 20)
    assert (result["auc"], result["high"]) == (1.0, 1.0)
    assert result["low"] == pytest.approx(0.025 ** (1 / 20))
    tied = load("preference_auc").compute(chosen_score=[1.0] * 20, rejected_score=[1.0] * 20)
    assert tied["auc"] == 0.5


# ---- probabilities ----


def test_log_loss_and_brier_of_worked_values() -> None:
    odds = [math.log(3), -math.log(3), 0.0]  # P = 3/4, 1/4, 1/2
    np.testing.assert_allclose(preference_log_loss.per_prompt(odds), [math.log(4 / 3), math.log(4), math.log(2)])
    np.testing.assert_allclose(preference_brier.per_prompt(odds), [1 / 16, 9 / 16, 1 / 4])
    # A label of three annotators in four counts each of them: 3/4 at 1/16, 1/4 at 9/16.
    assert preference_brier.per_prompt(odds[:1], [0.75])[0] == pytest.approx(3 / 4 / 16 + 9 / 4 / 16)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert preference_log_loss.per_prompt(odds[:1], [0.75])[0] == pytest.approx(entropy)
    np.testing.assert_array_equal(preference_log_loss.per_prompt([-2000.0, 2000.0]), [2000.0, 0.0])
    with pytest.raises(ValueError, match=r"preference\[1\] is 1.5; a share of labels"):
        preference_brier.per_prompt([0.0, 0.0], [1.0, 1.5])


def test_scale_is_the_likelihoods_maximum(generator: np.random.Generator) -> None:
    chosen, rejected = calibrated(generator, 400, scale=0.3)
    margin = chosen - rejected
    found = probability.fit_scale(margin)
    assert found is not None
    grid = np.linspace(0, 1, 2001)
    loss = [np.logaddexp(0, -scale * margin).sum() for scale in grid]
    assert found == pytest.approx(grid[int(np.argmin(loss))], abs=5e-4)
    assert found == pytest.approx(0.3, abs=0.1)
    # Another unit of the score gives another scale, and the same probabilities.
    assert probability.fit_scale(margin * 1e6) == pytest.approx(found * 1e-6)
    # Soft labels: one pair of margin 2 won three times in four has σ(2 s) = 3/4.
    assert probability.fit_scale([2.0], [0.75]) == pytest.approx(math.log(3) / 2)


def test_scale_that_no_data_determine() -> None:
    assert probability.fit_scale([0.0, 0.0]) is None  # every scale says 1/2
    assert probability.fit_scale([1.0, 1.0]) is None  # every larger scale is better
    assert probability.fit_scale([1.0, 0.0, 2.0]) is None
    assert probability.fit_scale([-1.0, -1.0, 0.5]) == 0.0  # never below: the order is not to be turned round
    assert probability.cross_fitted([1.0]) is None
    assert probability.cross_fitted([1.0, -1.0, 1.0, -1.0]) is None  # one half has no wrong pair


def test_each_half_gets_the_scale_of_the_other(generator: np.random.Generator) -> None:
    chosen, rejected = calibrated(generator, 101)
    margin = chosen - rejected
    fitted = probability.cross_fitted(margin)
    assert fitted is not None
    even, odd = probability.fit_scale(margin[::2]), probability.fit_scale(margin[1::2])
    assert even != odd
    np.testing.assert_allclose(fitted[0][::2], margin[::2] * odd, rtol=1e-12)
    np.testing.assert_allclose(fitted[0][1::2], margin[1::2] * even, rtol=1e-12)
    assert fitted[1] == pytest.approx((even + odd) / 2)


# ---- calibration ----


def by_hand(confidence: np.ndarray, agree: np.ndarray, bins: int) -> float:
    """ECE over equal-mass bins, where values are distinct and divide evenly."""
    parts = np.array_split(np.argsort(confidence), bins)
    return float(sum(len(at) * abs(confidence[at].mean() - agree[at].mean()) for at in parts) / len(agree))


def test_ece_agrees_with_bins_cut_by_hand(generator: np.random.Generator) -> None:
    odds = generator.normal(size=200) + 0.5
    confidence, agree = np.maximum(expit(odds), expit(-odds)), (odds > 0).astype(float)
    result = load("preference_calibration").compute(logit=odds, preference=[1.0] * 200)
    assert result["ece"] == pytest.approx(by_hand(confidence, agree, 10), abs=1e-14)
    assert [row["n"] for row in result["reliability"]] == [20] * 10
    assert np.all(np.diff([row["confidence"] for row in result["reliability"]]) > 0)
    gaps = [row["n"] * abs(row["confidence"] - row["accuracy"]) for row in result["reliability"]]
    assert sum(gaps) / 200 == pytest.approx(result["ece"], abs=1e-14)
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in result["reliability"])


def test_classwise_error_is_symmetric_and_that_of_the_winner_in_half_as_many_bins(
    generator: np.random.Generator,
) -> None:
    odds = generator.normal(size=200) + 0.5
    both = np.concatenate([expit(odds), expit(-odds)])
    expected = by_hand(both, np.repeat([1.0, 0.0], 200), 10)
    assert preference_calibration.classwise(odds) == pytest.approx(expected, abs=1e-14)
    assert expected == pytest.approx(preference_calibration.per_prompt(odds, bins=5).mean(), abs=1e-12)
    # Which response is called chosen does not matter where labels say so too.
    assert preference_calibration.classwise(-odds, np.zeros(200)) == pytest.approx(expected, abs=1e-12)


def test_calibrated_scores_err_by_chance_only_and_overconfident_ones_more(generator: np.random.Generator) -> None:
    errors, chances = [], []
    for _ in range(100):
        chosen, rejected = calibrated(generator, 300)
        errors.append(preference_calibration.per_prompt(chosen - rejected).mean())
        chances.append(preference_calibration.by_chance(chosen - rejected))
    # A single error has a standard deviation of about .012: 4 standard errors of the mean of 100 are .005.
    assert np.mean(errors) == pytest.approx(np.mean(chances), abs=0.005)
    assert preference_calibration.per_prompt(5 * (chosen - rejected)).mean() > 3 * np.mean(chances)


def test_pairs_without_a_winner_err_by_no_chance() -> None:
    odds = np.zeros(100)
    assert preference_calibration.by_chance(odds) == preference_calibration.per_prompt(odds).mean() == 0.0
    odds[:50] = 2.0
    # Two bins, of which one can err.
    assert preference_calibration.by_chance(odds) == pytest.approx(
        preference_calibration.by_chance(odds[:50], bins=1) / 2
    )


def test_equal_confidences_share_a_bin_whatever_the_order() -> None:
    odds = np.zeros(200)
    odds[:20] = logit(0.9)
    for order in (np.arange(200), np.arange(200)[::-1]):
        rows = preference_calibration.reliability(odds[order])
        assert [(row["n"], row["accuracy"]) for row in rows] == [(180, 0.5), (20, 1.0)]
    assert preference_calibration.per_prompt(odds).mean() == pytest.approx(0.1 * 20 / 200)
    assert preference_calibration.equal_mass_bins(np.arange(9.0)).max() == 0  # too few for two bins
    with pytest.raises(ValueError, match="bins is 0"):
        preference_calibration.equal_mass_bins(odds, 0)
