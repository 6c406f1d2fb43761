"""Tests between two methods, Holm's correction and verdicts."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control, permutation_test, t, ttest_ind

from preflab.eval.statistics import compare, compare_wins, fewest_prompts, holm, verdict
from preflab.eval.statistics.significance import flip, sign_flips
from preflab.eval.statistics.variance import scale, spread


def test_the_estimate_is_first_less_second() -> None:
    found = compare([3.0, 4.0, 5.0], [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert found.estimate.mean == 2.5
    assert found.estimate.n == 9
    back = compare([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]], [3.0, 4.0, 5.0])
    np.testing.assert_allclose(back.estimate[:3], [-2.5, -found.estimate.high, -found.estimate.low])
    assert (back.p, back.detectable) == pytest.approx((found.p, found.detectable))


# ---- one seed: sign flips ----------------------------------------------------------------------------


def test_p_of_few_prompts_counts_all_flips() -> None:
    # Differences without ties: of 2^10 flips, count those further out, and the two as far out: the values themselves.
    values = np.random.default_rng(1).normal(0.6, 1.0, size=10)
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=10)]
    beyond = sum(x > abs(values.sum()) * (1 + 1e-9) for x in sums)
    exact = (beyond + 2) / 1024
    # Linear between the two nearest flips, which are at most one step of 2/1024 apart.
    assert compare(values, np.zeros(10)).p == pytest.approx(exact, abs=2 / 1024)
    scipy = permutation_test(
        (values, np.zeros(10)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert compare(values, np.zeros(10)).p == pytest.approx(scipy.pvalue, abs=3 / 1024)


def test_p_of_wins_is_mcnemars_mid_p() -> None:
    # 12 wins, 4 losses, 20 ties: given 16 decided games, binomial; as far out by half.
    values = np.array([1.0] * 12 + [-1.0] * 4 + [0.0] * 20)
    both_tails = binomtest(4, 16).pvalue  # P(X <= 4) + P(X >= 12)
    at = 2 * 1820 / 2**16  # two-sided, P(X = 4) = C(16, 4) / 2^16
    # 10,000 random flips give a p of 0.05 to 0.0022; three of these.
    assert compare(values, np.zeros(36)).p == pytest.approx(both_tails - at / 2, abs=0.0066)


def test_all_equal_differences_leave_only_all_signs_equal() -> None:
    found = compare(np.ones(10), np.zeros(10))
    # Both all-plus and all-minus are as far out.
    assert found.p == 2 / 1024
    assert found.estimate[:3] == (1.0, 1.0, 1.0)
    assert compare(np.ones(10), np.ones(10)).p == 1.0


def test_p_and_interval_agree_about_zero() -> None:
    generator = np.random.default_rng(0)
    rejected = 0
    for run in range(300):
        n = int(generator.integers(6, 60))
        wins = generator.choice([-1, -0.5, 0, 0.5, 1], size=n, p=[0.1, 0.1, 0.2, 0.3, 0.3])
        values = wins if run % 2 else generator.normal(0.3, size=n)
        level = 0.95 if run % 3 else 0.8
        found = flip(values, sign_flips(n, 999))
        low, high = found.interval(level)
        assert low <= found.mean <= high
        assert (found.p() < 1 - level) == (low > 0.0 or high < 0.0)
        rejected += found.p() < 1 - level
    assert 60 < rejected < 240  # both sides were seen


def test_flip_intervals_are_nearly_t_for_normal_values() -> None:
    values = np.random.default_rng(2).normal(1.0, 2.0, size=200)
    half = t.ppf(0.975, 199) * values.std(ddof=1) / 200**0.5
    found = compare(values, np.zeros(200)).estimate
    # 10,000 flips place an end to about 2 % of the half width; three of these.
    np.testing.assert_allclose([found.low, found.high], [values.mean() - half, values.mean() + half], atol=0.06 * half)


def test_signs_begin_with_the_values_as_they_are() -> None:
    few, many = sign_flips(4), sign_flips(40, 99)
    assert len({tuple(row) for row in few}) == len(few) == 16
    assert many.shape == (100, 40)
    assert (few[0] == 1).all()
    assert (many[0] == 1).all()
    assert set(np.unique(many)) == {-1.0, 1.0}
    np.testing.assert_array_equal(many, sign_flips(40, 99))


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7])
def test_few_prompts_are_enumerated_and_never_more_sure_than_their_signs(count: int) -> None:
    values = 1.0 + np.arange(count) / 1000.0  # a t test would call two of these different
    found = compare(values, np.zeros(count))
    assert found.p == 2.0 ** (1 - count)
    assert (found.p < 0.05) == (found.estimate.low > 0) == (count >= fewest_prompts())
    assert math.isinf(found.estimate.high) == math.isinf(found.detectable) == (count < fewest_prompts())
    mixed = compare(values * np.where(np.arange(count) == 0, -1, 1), np.zeros(count))
    assert mixed.p > found.p


def test_the_fewest_prompts_are_those_whose_signs_can_tell() -> None:
    assert [fewest_prompts(comparisons=m) for m in (1, 2, 3, 6, 15)] == [6, 7, 7, 8, 10]
    for m in range(1, 50):
        assert 2.0 ** (1 - fewest_prompts(comparisons=m)) < 0.05 / m <= 2.0 ** (2 - fewest_prompts(comparisons=m))


def test_no_p_of_drawn_flips_is_zero() -> None:
    found = compare(np.linspace(1.0, 2.0, 60), np.zeros(60))
    assert found.p == 1 / 10_000  # (0 + 1) / (9,999 + 1)
    assert found.estimate.low > 0.0


# ---- several seeds -----------------------------------------------------------------------------------


def test_seeds_that_are_all_that_varies_are_compared_by_t() -> None:
    # Equal spreads of three seeds each: Welch's corrected degrees of freedom are 2·2·(2 + 2)/2 - 2 = 6, not 4.
    first, second = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    found = compare(np.tile(first[:, None], 40), np.tile(second[:, None], 40))
    reach = 3.0 / (2 * 1.0 / 3) ** 0.5
    assert found.p == pytest.approx(2 * t.sf(reach, 6))
    assert reach == pytest.approx(-ttest_ind(first, second).statistic)


def test_p_and_interval_agree_about_zero_with_seeds() -> None:
    generator = np.random.default_rng(3)
    rejected = 0
    for _ in range(100):
        first = generator.normal(size=(3, 40)) + generator.normal(size=(3, 1)) * 0.2 + generator.choice([0.0, 0.6])
        found = compare(first, generator.normal(size=(2, 40)))
        assert (found.p < 0.05) == (found.estimate.low > 0.0 or found.estimate.high < 0.0)
        rejected += found.p < 0.05
    assert 5 < rejected < 80


def test_shared_prompts_pair_the_methods() -> None:
    generator = np.random.default_rng(4)
    prompts = 5.0 * generator.normal(size=60)
    first, second = prompts + generator.normal(0.5, 0.3, (3, 60)), prompts + generator.normal(0.0, 0.3, (3, 60))
    assert compare(first, second).p < 0.01
    # What pairs them is the prompt, not the seed's number.
    assert compare(first[[2, 0, 1]], second).p == pytest.approx(compare(first, second).p)
    assert compare(first, second[:, generator.permutation(60)]).p > 0.05


def test_more_comparisons_see_less() -> None:
    first, second = np.random.default_rng(5).normal(size=(2, 3, 50))
    one, ten = compare(first, second), compare(first, second, comparisons=10)
    assert ten.detectable > 1.3 * one.detectable
    assert (ten.estimate, ten.p) == (one.estimate, one.p)


@pytest.mark.parametrize("wide", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_equal_methods_are_called_different_once_in_twenty(seeds: int, wide: float) -> None:
    runs, n = (600, 96) if seeds > 1 else (300, 96)
    generator = np.random.default_rng([seeds, int(wide), 1])

    def draw() -> np.ndarray:
        own = generator.exponential(size=(runs, seeds, n)) - 1.0
        return own + wide * (seeds > 1) / n**0.5 * generator.normal(size=(runs, seeds, 1))

    first, second = draw(), draw()
    if seeds == 1:
        signs = sign_flips(n, 999)
        rejected = sum(flip(a[0] - b[0], signs).p() < 0.05 for a, b in zip(first, second, strict=True))
    else:
        found = scale(spread(first.mean(1) - second.mean(1), [first, second]))
        rejected = int((abs(first.mean((1, 2)) - second.mean((1, 2))) > found.critical(0.95) * found.error).sum())
    assert binomtest(rejected, runs, 0.065, alternative="greater").pvalue > 1e-4
    assert binomtest(rejected, runs, 0.035, alternative="less").pvalue > 1e-4


# ---- wins --------------------------------------------------------------------------------------------


def test_wins_of_one_seed_each_are_compared_as_differences() -> None:
    wins = np.random.default_rng(6).choice([0.0, 0.5, 1.0], size=50, p=[0.2, 0.2, 0.6])
    found = compare_wins(wins)
    assert found == compare(wins, 1.0 - wins)._replace(estimate=found.estimate)
    assert found.estimate[:3] == compare(wins, 1.0 - wins).estimate[:3]
    assert found.estimate.n == 50


@pytest.mark.parametrize("count", [2, 5, 6, 20])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_wins_alone_have_the_sign_tests_p_and_its_interval(count: int, shape: tuple[int, ...]) -> None:
    found = compare_wins(np.ones((*shape, count)))
    assert found.p == pytest.approx(binomtest(count, count).pvalue)
    exact = binomtest(count, count).proportion_ci(0.95, method="exact")
    assert found.estimate[:3] == pytest.approx((1.0, 2 * exact.low - 1, 1.0))
    assert (found.p < 0.05) == (found.estimate.low > 0)
    tied = compare_wins(np.full((*shape, count), 0.5))
    assert (tied.p, tied.estimate.mean) == (1.0, 0.0)
    assert tied.estimate.low == pytest.approx(-tied.estimate.high)
    assert tied.estimate.high == pytest.approx(1 - 0.025 ** (1 / count))


def test_no_table_of_games_has_an_interval_without_width_or_one_that_its_p_contradicts() -> None:
    for count in range(2, 11):
        for wins in range(count + 1):
            for ties in range(count - wins + 1):
                games = np.repeat([1.0, 0.5, 0.0], [wins, ties, count - wins - ties])
                found = compare_wins(games)
                assert -1.0 <= found.estimate.low < found.estimate.high <= 1.0
                assert 0.0 < found.p <= 1.0
                assert (found.p < 0.05) == (not found.estimate.low <= 0.0 <= found.estimate.high)


@pytest.mark.parametrize("seeds", [2, 3])
def test_seeds_whose_shares_coincide_are_no_certainty(seeds: int) -> None:
    # Equal methods, 100 games a seed: the shares of two seeds are one number in 6 % of tables.
    generator = np.random.default_rng(7)
    found = [compare_wins(generator.integers(0, 2, size=(seeds, 100))) for _ in range(1500)]
    assert all(one.estimate.low < one.estimate.high and one.p > 1e-8 for one in found)
    assert sum(one.p < 0.05 for one in found) < 0.06 * 1500


def test_pairs_of_seeds_are_counted_once() -> None:
    # Each row is one pair of models. Taken as two methods' own tables, the spread between rows would count half.
    wins = np.tile(np.array([0.5, 0.6, 0.7])[:, None], 30)
    values = 2.0 * np.array([0.5, 0.6, 0.7]) - 1.0
    expected = t.ppf(0.975, 2) * values.std(ddof=1) / 3**0.5
    found = compare_wins(wins).estimate
    assert found.high - found.mean == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_seeds_of_either_side_widen(axis: int) -> None:
    chances = np.array([0.3, 0.6, 0.9]).reshape((3, 1, 1) if axis == 0 else (1, 3, 1))
    games = np.random.default_rng(9).random((3, 3, 80))
    moved = compare_wins((games < chances).astype(float)).estimate
    steady = compare_wins((games < 0.6).astype(float)).estimate
    assert moved.high - moved.low > 4 * (steady.high - steady.low)


def test_every_seed_against_every_seed() -> None:
    # A win where first's strength is above second's: seeds of both move it.
    generator = np.random.default_rng(7)
    runs, rejected = 150, 0
    for _ in range(runs):
        own = [0.3 * generator.normal(size=(3, 1)) + generator.normal(size=(3, 96)) for _ in range(2)]
        rejected += compare_wins((own[0][:, None] > own[1][None]).astype(float)).p < 0.05
    assert binomtest(rejected, runs, 0.065, alternative="greater").pvalue > 1e-3
    assert binomtest(rejected, runs, 0.025, alternative="less").pvalue > 1e-3


# ---- Holm, verdict, mistakes -------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # Sorted 0.01·4, 0.02·3, 0.03·2, 0.2·1: the third may not fall below the second.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.2, 0.02]), [0.06, 0.04, 0.2, 0.06])
    np.testing.assert_array_equal(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_holm_is_stricter_than_false_discovery_control() -> None:
    p = np.random.default_rng(8).random(20) ** 3
    assert (holm(p) >= false_discovery_control(p)).all()
    assert (holm(p) <= np.minimum(20 * p, 1.0)).all()


def test_verdicts() -> None:
    assert verdict(0.3, 0.049) == "first"
    assert verdict(-0.3, 0.049) == "second"
    assert verdict(-0.3, 0.05) == "none"
    assert verdict(0.3, 0.04, level=0.99) == "none"


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="first has 2 prompts, second 3"):
        compare([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="comparisons is 0"):
        compare([1.0, 2.0], [1.0, 2.0], comparisons=0)
    with pytest.raises(ValueError, match="level"):
        compare([1.0, 2.0], [1.0, 2.0], level=1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="nan"):
        compare_wins(np.full((2, 2, 3), np.nan))
