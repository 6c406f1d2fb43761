"""Held-out preferences: each metric against a second computation, and the summary against the data."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import pearsonr

from eval.comparison.preferences import KEYS, correlation, length_buckets, summarise_preferences
from eval.metrics import (
    load,
    preference_auc,
    preference_brier,
    preference_calibration,
    preference_log_loss,
    probability,
)
from eval.statistics import interval, wilson
from preflab.errors import UserError

DATA = Path("/work/shared/data")


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def rows(chosen: Any, rejected: Any, **columns: Any) -> list[dict[str, Any]]:
    """Records of held-out pairs, numbered from 100 so that a row is no position."""
    table = {"chosen_score": chosen, "rejected_score": rejected, **columns}
    return [
        {"row": 100 + at, **dict(zip(table, values, strict=True))}
        for at, values in enumerate(zip(*(np.asarray(v).tolist() for v in table.values()), strict=True))
    ]


def calibrated(generator: np.random.Generator, n: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose pairs are labelled by Bradley-Terry itself, at a scale."""
    scores = generator.normal(size=(2, n)) * 2
    swap = generator.random(n) > expit(scale * (scores[0] - scores[1]))
    scores[:, swap] = scores[::-1, swap]
    return scores[0], scores[1]


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
    assert result["low"] == pytest.approx(1 / (1 + 3.8415 / 20), abs=1e-4)  # Wilson: n / (n + z²)
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


# ---- the summary ----


def test_summary_has_the_keys_it_documents(generator: np.random.Generator) -> None:
    chosen, rejected = calibrated(generator, 300)
    extra = {name: generator.integers(1, 40, size=300) for name in ("chosen_length", "rejected_length")}
    extra |= {name: -generator.random(300) * 40 for name in ("chosen_logp", "rejected_logp")}
    table = rows(chosen, rejected, subset=["a", "b", "c"] * 100, **extra)
    summary = summarise_preferences([table, table], "reward")
    assert summary is not None
    assert set(summary) == set(KEYS)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["scale"] == {"value": 1.0, "source": "own"}
    margin = summary["margin"]
    assert margin["mean"] == pytest.approx(np.mean(chosen - rejected))
    assert (margin["n"], summary["reliability"][0]["n"]) == (600, 60)
    # Seeds that share pairs add none: bins hold 30 pairs twice.
    first = summary["reliability"][0]
    assert (first["low"], first["high"]) == wilson(first["accuracy"], 30)
    bare = summarise_preferences([rows(chosen, rejected)], "reward")
    assert bare is not None
    assert set(bare) == set(KEYS)
    assert (bare["subsets"], bare["subset_mean"], bare["length_buckets"]) == ({}, None, [])
    assert bare["length_correlation"] is bare["likelihood"] is bare["normalised_likelihood"] is None


def test_an_undecided_pair_counts_half_whichever_response_is_named_first(generator: np.random.Generator) -> None:
    chosen, rejected = calibrated(generator, 40)
    even = generator.random(40) < 0.3
    labels = np.where(even, 0.5, 1.0)
    table = rows(chosen, rejected, preference=labels, chosen_logp=chosen, rejected_logp=rejected)
    turned = np.where(even, rejected, chosen), np.where(even, chosen, rejected)
    summary = summarise_preferences([table], "reward")
    again = summarise_preferences([rows(*turned, preference=labels)], "reward")
    assert summary is not None
    assert again is not None
    assert summary["undecided"] == even.sum() > 0
    right = np.where(even, 0.5, chosen > rejected)
    assert summary["accuracy"]["mean"] == summary["likelihood"]["accuracy"]["mean"] == pytest.approx(right.mean())
    assert summary["margin"]["mean"] == pytest.approx(np.where(even, 0, chosen - rejected).mean())
    # Each response of an undecided pair is half a chosen and half a rejected one.
    scores, weight = np.concatenate([chosen, rejected]), np.concatenate([labels, 1 - labels])
    above = 0.5 * (1 + np.sign(scores[:, None] - scores))
    area = weight @ above @ (1 - weight) / (weight.sum() * (1 - weight).sum())
    assert summary["auc"]["mean"] == pytest.approx(area, abs=1e-12)
    for name in ("accuracy", "margin", "auc", "log_loss", "brier"):
        assert summary[name] == pytest.approx(again[name]), name


def test_undecided_pairs_alone_say_nothing(generator: np.random.Generator) -> None:
    summary = summarise_preferences([rows(*calibrated(generator, 20), preference=[0.5] * 20)], "reward")
    assert summary is not None
    assert (summary["accuracy"]["mean"], summary["undecided"]) == (0.5, 20)
    assert summary["auc"]["mean"] == pytest.approx(0.5, abs=1e-12)


def test_a_policys_scale_is_its_beta_or_fitted(generator: np.random.Generator) -> None:
    chosen, rejected = calibrated(generator, 2000, scale=0.25)
    table = [rows(chosen, rejected)]
    known = summarise_preferences(table, "implicit reward", scale=0.5)
    fitted = summarise_preferences(table, "implicit reward")
    assert known is not None
    assert fitted is not None
    assert known["scale"] == {"value": 0.5, "source": "own"}
    expected = np.mean(np.log1p(np.exp(-0.5 * (chosen - rejected))))
    assert known["log_loss"]["mean"] == pytest.approx(expected, abs=1e-12)
    assert fitted["scale"]["source"] == "fitted"
    # Information is Σ m² p (1 − p), about 2,000 · 8 · 0.2: 4 standard errors of 0.018.
    assert fitted["scale"]["value"] == pytest.approx(0.25, abs=0.07)
    assert fitted["recalibrated"] is None
    assert known["recalibrated"] == {name: fitted[name] for name in ("scale", "log_loss", "brier", "ece")}
    assert fitted["ece"]["mean"] < known["ece"]["mean"]
    assert known["accuracy"] == fitted["accuracy"]


def test_margins_that_determine_no_scale_leave_out_what_needs_one() -> None:
    for chosen in ([1.0] * 20, [0.0] * 20):
        summary = summarise_preferences([rows(chosen, [0.0] * 20)], "implicit reward")
        assert summary is not None
        assert summary["scale"] == {"value": None, "source": "fitted"}
        assert summary["log_loss"] is summary["brier"] is summary["ece"] is summary["ece_by_chance"] is None
        assert summary["reliability"] == []
        assert summary["accuracy"]["mean"] == 0.5 + chosen[0] / 2
        assert summary["ties"]["mean"] == 1 - chosen[0]
    known = summarise_preferences([rows([1.0] * 20, [0.0] * 20)], "implicit reward", scale=1.0)
    assert known is not None
    assert known["log_loss"]["mean"] == pytest.approx(math.log1p(math.exp(-1)))
    assert known["recalibrated"]["log_loss"] is None


def test_labels_given_as_shares_are_used(generator: np.random.Generator) -> None:
    odds = generator.normal(size=200)
    share = expit(np.abs(odds))
    summary = summarise_preferences([rows(np.abs(odds), 0 * odds, preference=share)], "reward")
    assert summary is not None
    # The labels are just what is predicted: no calibration error at all, and the log-loss is their entropy.
    assert summary["ece"]["mean"] == pytest.approx(0, abs=1e-12)
    entropy = np.mean(-share * np.log(share) - (1 - share) * np.log(1 - share))
    assert summary["log_loss"]["mean"] == pytest.approx(entropy)


def test_subsets_micro_and_macro(generator: np.random.Generator) -> None:
    right = np.concatenate([generator.random(300) < 0.9, generator.random(50) < 0.5]).astype(float)
    names = ["easy"] * 300 + ["hard"] * 50
    summary = summarise_preferences([rows(right, np.full(350, 0.5), subset=names)], "reward")
    assert summary is not None
    easy, hard = right[:300].mean(), right[300:].mean()
    assert {name: part["n"] for name, part in summary["subsets"].items()} == {"easy": 300, "hard": 50}
    assert summary["subsets"]["hard"]["accuracy"]["mean"] == hard
    assert summary["accuracy"]["mean"] == pytest.approx((300 * easy + 50 * hard) / 350)
    mean = summary["subset_mean"]
    assert mean["mean"] == pytest.approx((easy + hard) / 2, abs=1e-12)
    # Independent subsets: the variance of the mean is a quarter of the sum of theirs.
    error = math.sqrt(easy * (1 - easy) / 300 + hard * (1 - hard) / 50) / 2
    assert (mean["high"] - mean["low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_small_subsets_have_the_error_of_their_own_means(generator: np.random.Generator) -> None:
    right = (generator.random(200) < 0.7).astype(float)
    summary = summarise_preferences(
        [rows(right, np.full(200, 0.5), subset=[str(i // 4) for i in range(200)])], "reward"
    )
    assert summary is not None
    found = summary["subset_mean"]
    # The mean of 50 means of 4, of which each one's variance is known from its own 3 degrees of freedom.
    error = math.sqrt(right.reshape(50, 4).var(1, ddof=1).sum() / 4) / 50
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.03)


def test_subset_mean_over_seeds_and_rows_without_subset() -> None:
    scores = [[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]
    seeds = [rows(chosen, [0.5] * 4, subset=["a", "a", "b", None]) for chosen in scores]
    summary = summarise_preferences(seeds, "reward")
    assert summary is not None
    assert summary["subsets"]["a"]["accuracy"]["mean"] == 0.75
    assert summary["subset_mean"]["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert list(summary["subsets"]) == ["a", "b"]


def test_length_buckets_and_correlation(generator: np.random.Generator) -> None:
    longer = generator.integers(-30, 31, size=500)
    lengths = {"chosen_length": 40 + longer, "rejected_length": np.full(500, 40)}
    margin = 0.1 * longer + generator.normal(size=500)
    summary = summarise_preferences([rows(margin, 0 * margin, **lengths)], "reward")
    assert summary is not None
    buckets = summary["length_buckets"]
    assert [np.sign(b["low"]) for b in buckets] == [-1, -1, -1, 0, 1, 1, 1]
    assert [np.sign(b["high"]) for b in buckets] == [-1, -1, -1, 0, 1, 1, 1]
    assert sum(b["n"] for b in buckets) == 500
    for bucket in buckets:
        within = (longer >= bucket["low"]) & (longer <= bucket["high"])
        assert bucket["n"] == within.sum()
        assert bucket["accuracy"]["mean"] == pytest.approx(np.mean(margin[within] > 0))
    expected = pearsonr(margin, longer)
    found = summary["length_correlation"]
    assert found["mean"] == pytest.approx(expected.statistic, abs=1e-12)
    assert tuple(found.values())[1:3] == pytest.approx(tuple(expected.confidence_interval()), abs=0.015)
    equal = summarise_preferences(
        [rows(margin, 0 * margin, chosen_length=[5] * 500, rejected_length=[5] * 500)], "reward"
    )
    assert equal is not None
    assert equal["length_correlation"] is None
    assert [(b["low"], b["high"], b["n"]) for b in equal["length_buckets"]] == [(0, 0, 500)]


def test_few_pairs_make_few_buckets() -> None:
    found = length_buckets(np.array([-5.0, -1.0, 3.0, 4.0]))
    assert [at.tolist() for at in found] == [[0, 1], [2, 3]]


def test_correlation_values_have_the_spread_of_r(generator: np.random.Generator) -> None:
    x = generator.normal(size=(300, 200))
    y = 0.6 * x + 0.8 * generator.normal(size=(300, 200))
    values = np.stack([correlation(*pair) for pair in zip(x, y, strict=True)])
    error = np.mean(values.std(axis=1)) / math.sqrt(200)
    # 300 repetitions know a standard deviation to 4 %, four of which are allowed.
    assert error == pytest.approx(values.mean(axis=1).std(), rel=0.16)


def test_plain_and_normalised_likelihood() -> None:
    # The longer response is the less likely one as a whole, and the likelier one per token.
    logps = {"chosen_logp": [-20.0, -3.0, -8.0], "rejected_logp": [-10.0, -4.0, -8.0]}
    lengths = {"chosen_length": [20, 3, 4], "rejected_length": [5, 2, 0]}
    summary = summarise_preferences([rows([1.0] * 3, [0.0] * 3, **logps, **lengths)], "implicit reward")
    assert summary is not None
    assert summary["likelihood"]["accuracy"]["mean"] == 0.5  # wrong, right, tie
    assert summary["normalised_likelihood"]["accuracy"]["mean"] == 1.0
    plain = summarise_preferences([rows([1.0] * 3, [0.0] * 3, **logps)], "implicit reward")
    assert plain is not None
    assert plain["likelihood"] == summary["likelihood"]
    assert plain["normalised_likelihood"] is None


def test_what_cannot_be_summarised_says_why() -> None:
    table = rows([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
    assert summarise_preferences([[]], "reward") is None
    assert summarise_preferences([], "reward") is None
    broken = [*table[:1], table[1] | {"rejected_score": math.nan}, table[2]]
    with pytest.raises(UserError, match=r"rejected_score of row 101 \(training seed 1\) is nan.*float32"):
        summarise_preferences([table, broken], "reward")
    with pytest.raises(UserError, match=r"chosen_logp of row 101 \(training seed 0\) is missing"):
        summarise_preferences([[table[0] | {"chosen_logp": -1.0}, *table[1:]]], "reward")
    with pytest.raises(ValueError, match="seeds 0 and 1 were evaluated on different rows"):
        summarise_preferences([table, table[::-1]], "reward")
    with pytest.raises(ValueError, match="different rows"):
        summarise_preferences([table, []], "reward")
    with pytest.raises(UserError, match="no row has 'chosen_score'"):
        summarise_preferences([[{"row": 0, "rejected_score": 1.0}]], "reward")
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be above 0"):
            summarise_preferences([table], "reward", scale=scale)
    with pytest.raises(ValueError, match="kind is 'policy'"):
        summarise_preferences([table], "policy")  # type: ignore[arg-type]


# ---- real data ----


@pytest.mark.parametrize(("name", "known"), [("llmbar_processed_human", 0.65), ("hh_heldout", 0.52)])
def test_a_length_baseline_on_real_pairs(name: str, known: float) -> None:
    path = DATA / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    chosen, rejected = (np.array([len(pair[side]) for pair in pairs]) for side in ("chosen", "rejected"))
    subsets = [pair.get("subset") for pair in pairs]
    summary = summarise_preferences(
        [rows(chosen, rejected, subset=subsets, chosen_length=chosen, rejected_length=rejected)], "reward"
    )
    assert summary is not None

    right = (chosen > rejected) + (chosen == rejected) / 2
    own = {s: right[[s == t for t in subsets]] for s in dict.fromkeys(subsets) if s is not None}
    assert summary["accuracy"]["mean"] == pytest.approx(right.mean(), abs=1e-12)
    assert summary["ties"]["mean"] == pytest.approx(np.mean(chosen == rejected), abs=1e-12)
    assert summary["accuracy"]["mean"] == pytest.approx(known, abs=0.01)
    assert set(summary["subsets"]) == set(own)
    for subset, values in own.items():
        found = summary["subsets"][subset]
        assert (found["accuracy"]["mean"], found["n"]) == (pytest.approx(values.mean(), abs=1e-12), len(values))
        estimate = interval(values, rate=True)
        assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (estimate.low, estimate.high)
    combinations = (chosen[:, None] > rejected) + (chosen[:, None] == rejected) / 2
    assert summary["auc"]["mean"] == pytest.approx(combinations.mean(), abs=1e-12)
    # A score that is the length itself goes with length entirely: right in every bucket of longer responses.
    assert summary["length_correlation"]["mean"] == pytest.approx(1.0, abs=1e-12)
    assert all(b["accuracy"]["mean"] == 0.5 + 0.5 * np.sign(b["low"]) for b in summary["length_buckets"])
