"""Means and intervals: worked values, independent computations, invariances, and coverage by simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gamma
from scipy.stats import binomtest, chi2, nct, norm, t, ttest_1samp

from preflab.eval.statistics import Estimate, compare, interval, unanimous, wilson
from preflab.eval.statistics.variance import Scale, Spread, detectable, scale, spread


def test_mean_and_n_are_those_of_all_values() -> None:
    estimate = interval([[0.0, 1.0, 2.0], [3.0, 4.0, 5.5]])
    assert estimate.mean == 15.5 / 6
    assert estimate.n == 6
    assert estimate.low < estimate.mean < estimate.high


def test_as_dict_is_json_ready() -> None:
    record = interval(np.arange(5, dtype=np.float32)).as_dict()
    assert list(record) == ["mean", "low", "high", "n"]
    assert Estimate(**json.loads(json.dumps(record))) == interval(np.arange(5))


# ---- one seed, several seeds -------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_one_seed_has_the_t_interval_over_prompts(level: float) -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, size=30)
    expected = ttest_1samp(values, 0.0).confidence_interval(level)
    np.testing.assert_allclose(interval(values, level=level)[1:3], [expected.low, expected.high], rtol=1e-12)


def test_components_agree_with_an_independent_loop() -> None:
    table = np.random.default_rng(3).normal(size=(3, 7)) + np.array([[0.0], [1.0], [-2.0]])
    seeds, n = table.shape
    grand = table.mean()
    by_seed = [sum(row) / n for row in table]
    by_prompt = [sum(table[:, k]) / seeds for k in range(n)]
    left = [table[s, k] - by_seed[s] - by_prompt[k] + grand for s in range(seeds) for k in range(n)]
    # Mean squares of a two-way layout, as parts of the variance of the grand mean.
    found = spread(table.mean(0), [table])
    assert found.seeds[0] == pytest.approx(sum((x - grand) ** 2 for x in by_seed) / (seeds - 1) / seeds)
    assert found.prompts == pytest.approx(sum((x - grand) ** 2 for x in by_prompt) / (n - 1) / n)
    assert found.rest == pytest.approx(sum(x * x for x in left) / ((seeds - 1) * (n - 1)) / (seeds * n))
    assert (found.seeds_df, found.prompts_df) == ([2.0], 6)


def test_standard_error_and_critical_value_of_known_parts() -> None:
    # U = 0.03 (2 degrees of freedom), B = 0.02 - 0.01 = 0.01: V = 0.04, share 3/4, odds of the parts 3.
    found = scale(Spread(np.array([0.03]), np.array([2.0]), np.array(0.02), np.array(0.01), 99))
    apart = t.ppf(0.975, 2) / t.ppf(0.975, 99)
    odds = (3.0 * apart ** (4 / 3) / 2.7) ** apart
    weight = odds / (1.0 + odds)
    assert found.error == pytest.approx(0.2)
    assert found.critical(0.95) == pytest.approx(weight * t.ppf(0.975, 2) + (1 - weight) * t.ppf(0.975, 99))
    # Two groups of one degree each, equal: (1 + 1)² / (1/3 + 1/3) - 2 = 4 (Welch 1947).
    both = scale(Spread(np.array([0.5, 0.5]), np.array([1.0, 1.0]), np.array(0.0), np.array(0.0), 99))
    assert both.seeds_df == pytest.approx(4.0)
    # One group alone keeps its own.
    alone = scale(Spread(np.array([0.5, 0.0]), np.array([1.0, 1.0]), np.array(0.0), np.array(0.0), 99))
    assert alone.seeds_df == pytest.approx(1.0)


@pytest.mark.parametrize(("df", "low", "high"), [(1.0, 0.940, 0.963), (2.0, 0.949, 0.957), (4.0, 0.949, 0.954)])
def test_coverage_is_near_its_level_at_every_share_of_the_seeds(df: float, low: float, high: float) -> None:
    # U has `df` degrees of freedom, B is known: coverage is an integral over U alone.
    u = chi2.ppf((np.arange(2000) + 0.5) / 2000, df) / df
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
        parts = Spread(share * u[None], np.array([df]), np.full(len(u), 1.0 - share), np.zeros(len(u)), 10**6)
        found = scale(parts)
        assert low < (2.0 * norm.cdf(found.critical(0.95) * found.error) - 1.0).mean() < high, share


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_intervals_of_higher_levels_hold_those_of_lower_ones(share: float) -> None:
    found = Scale(np.array(1.0), np.array(share), np.array(1.0), 99)
    reach = [float(found.critical(level)) for level in (0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1 - 1e-9)]
    assert reach == sorted(reach)
    assert reach[0] == 0.0
    assert found.p(reach[4]) == pytest.approx(0.05)


def test_noise_that_two_groups_of_seeds_count_is_taken_once() -> None:
    # A game between seeds: its noise of variance 1 is in both groups' means and in the prompts', 1 + 1 + 1 - 2.
    both = Spread(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array(1.0), np.array(2.0), 99, players=2)
    assert scale(both).error == pytest.approx(1.0)
    assert scale(both._replace(players=1)).error == pytest.approx(2.0**0.5)


def test_detectable_where_only_three_seeds_vary_is_that_of_the_t_test() -> None:
    found = Spread(np.array([1.0]), np.array([2.0]), np.array(0.0), np.array(0.0), 99)
    reach = t.ppf(0.975, 2)
    root = brentq(lambda x: nct.sf(reach, 2, x) - 0.8, 1.0, 12.0)  # the other tail is below 1e-6
    # The mean of a standard deviation from 2 degrees of freedom is Γ(3/2) of the true one; 20,000 draws give 2 %.
    assert detectable(found, 0.95, draws=20_000) == pytest.approx(root / gamma(1.5), rel=0.04)


def test_seeds_that_are_all_that_varies_have_the_t_interval_over_seeds() -> None:
    # Every prompt has the value of its seed: the seeds' means are the sample.
    means = np.array([0.1, 0.4, 0.3, 0.9])
    found = interval(np.tile(means[:, None], 50))
    expected = ttest_1samp(means, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(found[1:3], [expected.low, expected.high], rtol=1e-9)


def test_shared_prompts_are_one_cluster() -> None:
    # Ten seeds that agree on every prompt carry the information of one.
    values = np.random.default_rng(0).normal(size=300)
    one, ten = interval(values), interval(np.tile(values, (10, 1)))
    assert ten.n == 3000
    np.testing.assert_allclose(ten[:3], one[:3], rtol=1e-9)


def test_spread_between_seeds_widens_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=(4, 300))
    shifted = values + np.array([[-1.0], [-0.3], [0.3], [1.0]])
    agreeing, differing = interval(values), interval(shifted)
    assert differing.high - differing.low > 5 * (agreeing.high - agreeing.low)


def test_batches_are_what_single_tables_are() -> None:
    tables = np.random.default_rng(1).normal(size=(5, 3, 20))
    batch = scale(spread(tables.mean(1), [tables]))
    for k, table in enumerate(tables):
        one = scale(spread(table.mean(0), [table]))
        np.testing.assert_allclose([one.error, one.critical(0.9)], [batch.error[k], batch.critical(0.9)[k]], rtol=1e-12)


def test_invariances() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(3, 50))
    estimate = interval(values)
    shuffled = interval(values[generator.permutation(3)][:, generator.permutation(50)])
    np.testing.assert_allclose(shuffled[:3], estimate[:3], atol=1e-14)
    moved = interval(2.0 * values + 3.0)
    np.testing.assert_allclose(moved[:3], [2.0 * x + 3.0 for x in estimate[:3]], rtol=1e-12)
    mirrored = interval(-values)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-estimate.high, -estimate.low], rtol=1e-12)


def test_one_prompt_speaks_of_itself() -> None:
    means = [1.0, 2.0, 4.0]
    expected = ttest_1samp(means, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(np.array(means)[:, None])[1:3], [expected.low, expected.high], rtol=1e-9)


# ---- rates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (20, 20), (7, 10), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(successes: int, n: int, level: float) -> None:
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(wilson(successes / n, n, level), [expected.low, expected.high], atol=1e-12)


def test_a_rate_of_one_seed_is_nearly_wilson() -> None:
    # n - 1 for n in the variance and t for z: 1 % of the width at 200 prompts.
    wins = np.array([1.0] * 180 + [0.0] * 20)
    np.testing.assert_allclose(interval(wins, rate=True)[1:3], wilson(0.9, 200), atol=0.01 * 0.085)


def test_a_rate_stays_between_0_and_1_and_a_number_need_not() -> None:
    wins = np.array([[1.0] * 19 + [0.0], [1.0] * 18 + [0.0] * 2])
    assert 0.0 < interval(wins, rate=True).low < interval(wins, rate=True).high < 1.0
    assert interval(wins).high > 1.0
    lost = interval(1.0 - wins, rate=True)
    assert (lost.low, lost.high) == pytest.approx(
        (1 - interval(wins, rate=True).high, 1 - interval(wins, rate=True).low)
    )


def test_equal_outcomes_are_no_certainty() -> None:
    won = interval(np.ones(20))
    exact = binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert won[:3] == pytest.approx((1.0, exact.low, exact.high), rel=1e-9)
    lost = interval(np.zeros(20))
    assert (lost.low, lost.high) == pytest.approx((1 - won.high, 1 - won.low))
    # At least 0.025^(1/21) of all games are ties; the others are half a game away at the most.
    tied = interval(np.full(21, 0.5))
    assert tied.high - 0.5 == pytest.approx(0.5 * (1 - 0.025 ** (1 / 21)))
    assert tied.low == pytest.approx(1 - tied.high)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [1, 3])
def test_one_game_leaves_nearly_everything_open(value: float, seeds: int) -> None:
    found = interval(np.full((seeds, 1), value), rate=True)
    assert found[:3] == pytest.approx((value, 0.025 * value, 1 - 0.025 * (1 - value)))


def test_unanimous_games_are_covered_whatever_the_rare_others_are() -> None:
    # The mean furthest from `share` that is still likely to show n alike: a share q of others, all at one end.
    for share, n in ((1.0, 7), (0.5, 12), (0.25, 30)):
        low, high = unanimous(share, n)
        q = 1 - 0.025 ** (1 / n)
        assert (1 - q) ** n == pytest.approx(0.025)
        assert (low, high) == pytest.approx(((1 - q) * share, (1 - q) * share + q))


def test_shares_that_seeds_have_in_common_by_chance_are_no_certainty() -> None:
    # Two seeds that win 10 of 20 each, on other prompts: neither seeds' nor prompts' means differ.
    half = np.repeat([1.0, 0.0], 10)
    found = interval([half, 1 - half])
    # The rest alone: mean square 20·2·0.25 / (1·19), over 2·20 values.
    error = (10 / 19 / 40) ** 0.5
    assert found.low == pytest.approx(0.5 - t.ppf(0.975, 19) * error)
    assert 0.0 < interval([half, 1 - half], rate=True).low < 0.5
    # On the same prompts: the prompts alone, as one seed of them has it.
    assert interval([half, half], rate=True)[:3] == pytest.approx(interval(half, rate=True)[:3])


def test_equal_outcomes_of_several_seeds_count_prompts_once() -> None:
    estimate = interval(np.ones((3, 20)))
    assert estimate.n == 60
    assert estimate[:3] == interval(np.ones(20))[:3]


def test_equal_values_that_are_no_rate_have_no_width() -> None:
    assert interval(np.zeros(20), rate=False) == (0.0, 0.0, 0.0, 20)
    assert interval(np.full(20, 2.5)) == (2.5, 2.5, 2.5, 20)
    # One value of what nothing bounds says nothing of others.
    assert interval([3.25]) == (3.25, -math.inf, math.inf, 1)
    assert interval([1.0], rate=False) == (1.0, -math.inf, math.inf, 1)


# ---- the bootstrap, which `interval` improves on -----------------------------------------------------


def crossed_bootstrap(table: NDArray[np.float64], resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the ends of the 95 % interval of prompts and seeds drawn again and again (Owen 2007, arXiv 0705.4543)."""
    draw = np.random.default_rng(seed)
    seeds, n = table.shape
    rows = [draw.integers(seeds, size=seeds)[:, None] for _ in range(resamples)]
    return np.quantile([table[row, draw.integers(n, size=n)].mean() for row in rows], [0.025, 0.975])


def test_the_bootstrap_agrees_with_the_interval_for_one_seed() -> None:
    values = np.random.default_rng(0).normal(size=(1, 2000))
    # 2000 resamples place each 2.5 % quantile to about 3 % of the width; 10 % is three times that.
    one, (low, high) = interval(values), crossed_bootstrap(values, 2000)
    assert high - low == pytest.approx(one.high - one.low, rel=0.1)


# ---- mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "empty"),
        (np.zeros((2, 0)), "empty"),
        ([1.0, float("nan")], "seed 0, prompt 1 is nan"),
        ([[1.0, 2.0], [float("inf"), 2.0]], "seed 1, prompt 0 is inf"),
        (np.zeros((1, 1, 1)), "shape"),
        (1.0, "shape"),
        ([[1.0], [1.0, 2.0]], "numbers in an array"),
        (["a"], "numbers in an array"),
    ],
    ids=["none", "no-prompts", "nan", "inf", "cube", "scalar", "ragged", "text"],
)
def test_bad_values_are_refused(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(values)  # type: ignore[arg-type]  # wrong on purpose


def test_bad_options_are_refused() -> None:
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="level"):
            interval([1.0, 2.0], level=level)


# ---- calibration, in small (docs/calibration.md has it in full) --------------------------------------


@pytest.mark.parametrize("wide", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_intervals_cover(seeds: int, wide: float) -> None:
    runs, n = 600, 96
    generator = np.random.default_rng([seeds, int(wide)])
    values = generator.normal(size=(runs, 1, n)) + generator.normal(size=(runs, seeds, n))
    if seeds > 1:
        values += wide * np.sqrt(2.0 / n) * generator.normal(size=(runs, seeds, 1))
    found = scale(spread(values.mean(1), [values]))
    covered = int((abs(values.mean((1, 2))) <= found.critical(0.95) * found.error).sum())
    # 95 % within 1.5 points, and what 600 draws may miss that by once in 10,000.
    assert binomtest(covered, runs, 0.935, alternative="less").pvalue > 1e-4
    assert binomtest(covered, runs, 0.965, alternative="greater").pvalue > 1e-4


def test_the_bootstrap_would_not_have_covered() -> None:
    # Why it was given up: two seeds that differ (here by 3 standard errors) hold the truth far too seldom.
    generator = np.random.default_rng(7)
    held = 0
    for run in range(100):
        values = generator.normal(size=(2, 96)) + 0.3 * generator.normal(size=(2, 1))
        low, high = crossed_bootstrap(values, 200, seed=run)
        held += low <= 0.0 <= high
    assert binomtest(held, 100, 0.935, alternative="less").pvalue < 1e-3


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 6])
def test_the_detectable_difference_is_seen_four_times_in_five(seeds: int, level: float) -> None:
    runs, n = 1500, 96
    generator = np.random.default_rng([seeds, 5])

    def draw(count: int, shift: float) -> NDArray[np.float64]:
        seed = 0.1 * generator.normal(size=(count, seeds, 1)) * (seeds > 1)
        return shift + seed + generator.normal(size=(count, seeds, n))

    first, second = draw(200, 0.0), draw(200, 0.0)
    found = spread(first.mean(1) - second.mean(1), [first, second])
    rows = [
        Spread(found.seeds[:, k], found.seeds_df, found.prompts[k], found.rest[k], found.prompts_df) for k in range(200)
    ]
    size = float(np.mean([detectable(row, level, draws=500) for row in rows]))
    first, second = draw(runs, size), draw(runs, 0.0)
    error = scale(spread(first.mean(1) - second.mean(1), [first, second]))
    seen = int((abs(first.mean((1, 2)) - second.mean((1, 2))) > error.critical(level) * error.error).sum())
    # 80 % within 3 points; the mean of 200 figures is itself good to about 2 points of power with 3 seeds.
    assert binomtest(seen, runs, 0.75, alternative="less").pvalue > 1e-4
    assert binomtest(seen, runs, 0.85, alternative="greater").pvalue > 1e-4


# ---- several values of one prompt ---------------------------------------------------------------------


def pairs_of_prompts(rng, prompts=60, pairs=5, seeds=1):
    """Right or wrong on several pairs of each prompt, some of which are hard throughout; the true rate is 0.7."""
    chance = rng.beta(1.4, 0.6, size=prompts).repeat(pairs)
    return (rng.random((seeds, prompts * pairs)) < chance).astype(float), np.arange(prompts).repeat(pairs)


@pytest.mark.parametrize("rate", [True, False])
def test_pairs_that_share_prompts_are_not_independent(rate: bool) -> None:
    rng, covered, naive, runs = np.random.default_rng(0), 0, 0, 400
    for _ in range(runs):
        values, groups = pairs_of_prompts(rng)
        found, plain = interval(values, rate=rate, groups=groups), interval(values, rate=rate)
        assert found.mean == plain.mean
        assert found.n == plain.n == 300
        covered += found.low <= 0.7 <= found.high
        naive += plain.low <= 0.7 <= plain.high
    assert 0.92 <= covered / runs <= 0.98
    assert naive / runs < 0.86


def test_groups_of_one_change_nothing() -> None:
    values = np.random.default_rng(1).normal(size=(3, 40))
    assert interval(values, groups=np.arange(40)[::-1]) == interval(values)
    assert interval(values, groups=np.zeros(40, dtype=int)) == interval(values)


def test_groups_of_unequal_size_against_a_bootstrap_of_groups() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 8, size=200)
    groups = np.arange(200).repeat(sizes)
    values = rng.normal(size=200).repeat(sizes) + 0.5 * rng.normal(size=len(groups))
    sums = np.bincount(groups, values)
    draws = rng.integers(200, size=(4000, 200))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    found = interval(values, groups=groups)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(means.std(), rel=0.06)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one for each of 4 values"):
        interval([1.0, 2.0, 3.0, 4.0], groups=[0, 1])


def test_paired_seeds_are_compared_within_replications():
    rng = np.random.default_rng(0)
    replication = rng.normal(size=(3, 1))
    first = replication + 0.1 * rng.normal(size=(3, 50)) + 0.5
    second = replication + 0.1 * rng.normal(size=(3, 50))
    paired, apart = compare(first, second, paired=True), compare(first, second)
    assert paired.estimate[:3] == pytest.approx(interval(first - second)[:3])
    assert paired.p < 0.05 < apart.p, "what a replication gives to both cancels"
    with pytest.raises(ValueError, match="first has 3 seeds, second 2: no pairs"):
        compare(first, second[:2], paired=True)


def test_one_paired_seed_is_one_trained_model():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(1, 40)), rng.normal(size=(1, 40))
    assert compare(first, second, paired=True) == compare(first, second)
