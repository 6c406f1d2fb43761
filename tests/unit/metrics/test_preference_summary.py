"""What an evaluation says of its pairs: subsets, lengths, likelihoods."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from preference_scores import calibrated, rows
from scipy.special import expit
from scipy.stats import pearsonr

from preflab.errors import UserError
from preflab.eval.comparison.preferences import KEYS, correlation, length_buckets, summarise_preferences
from preflab.eval.statistics import interval, wilson

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


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
