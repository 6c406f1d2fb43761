"""Means and intervals: worked values, an independent loop, invariances, and coverage by simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from eval import statistics
from eval.statistics import Estimate, interval, wilson


def test_mean_and_n_are_those_of_all_values() -> None:
    estimate = interval([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    assert estimate.mean == 2.5  # (0 + 1 + 2 + 3 + 4 + 5) / 6
    assert estimate.n == 6
    assert estimate.low < 2.5 < estimate.high


def test_as_dict_is_json_ready() -> None:
    record = interval(np.arange(5, dtype=np.float32)).as_dict()
    assert list(record) == ["mean", "low", "high", "n"]
    assert Estimate(**json.loads(json.dumps(record))) == interval(np.arange(5))


def test_two_prompts_have_the_interval_of_the_four_possible_resamples() -> None:
    # Resamples of {0, 1} are 00, 01, 10, 11: means 0 (1/4), 0.5 (1/2), 1 (1/4). The 2.5 % and 97.5 %
    # quantiles are 0 and 1; the 30 % and 70 % quantiles (level 0.4) are both 0.5.
    assert interval([0.0, 1.0])[:3] == (0.5, 0.0, 1.0)
    assert interval([0.0, 1.0], level=0.4)[:3] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("shape", [(1, 7), (3, 7), (4, 1)])
def test_resamples_agree_with_an_independent_loop(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", 100_000)  # one chunk, so that the loop below is simple
    table = np.random.default_rng(3).normal(size=shape)
    resamples = 50
    generator = np.random.default_rng(11)
    seeds, prompts = shape
    chosen_prompts = generator.integers(prompts, size=(resamples, prompts))
    chosen_seeds = generator.integers(seeds, size=(resamples, seeds)) if seeds > 1 else np.zeros((resamples, 1), int)
    expected = []
    for drawn_seeds, drawn_prompts in zip(chosen_seeds, chosen_prompts, strict=True):
        values = [table[s, p] for s in drawn_seeds for p in drawn_prompts]
        expected.append(sum(values) / len(values))
    # float64 sums of at most 28 terms in another order
    np.testing.assert_allclose(statistics._bootstrap_means(table, resamples, 11), expected, rtol=0, atol=1e-12)


def test_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    estimate = interval(values)
    expected = 2 * 1.96 * values.std() / np.sqrt(len(values))
    # 2000 resamples place each 2.5 % quantile to about 3 % of the width; 10 % is three times that.
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.1)


def test_shared_prompts_are_one_cluster() -> None:
    # Ten seeds that agree on every prompt carry the information of one.
    values = np.random.default_rng(0).normal(size=300)
    one, ten = interval(values), interval(np.tile(values, (10, 1)))
    assert ten.n == 3000
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.1)


def test_spread_between_seeds_widens_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=(4, 300))
    shifted = values + np.array([[-1.0], [-0.3], [0.3], [1.0]])
    agreeing, differing = interval(values), interval(shifted)
    assert differing.high - differing.low > 2 * (agreeing.high - agreeing.low)


def test_equal_arguments_give_equal_results_and_chunks_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(3, 40))
    assert interval(values, seed=5) == interval(values, seed=5)
    assert interval(values, seed=5) != interval(values, seed=6)
    sizes = []
    original = statistics._counts

    def counted(generator: np.random.Generator, rows: int, items: int) -> NDArray[np.float64]:
        sizes.append(rows * items)
        return original(generator, rows, items)

    monkeypatch.setattr(statistics, "_CHUNK", 400)
    monkeypatch.setattr(statistics, "_counts", counted)
    estimate = interval(values, resamples=105)
    assert max(sizes) <= 400
    assert sum(sizes) == 105 * (40 + 3)
    assert estimate.mean == pytest.approx(values.mean())


def test_invariances() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(3, 50))
    estimate = interval(values)
    permuted = interval(values[:, generator.permutation(50)])
    assert permuted.mean == pytest.approx(estimate.mean, abs=1e-14)
    moved = interval(2.0 * values + 3.0)
    expected = [2.0 * x + 3.0 for x in estimate[:3]]
    np.testing.assert_allclose(moved[:3], expected, rtol=1e-12)
    mirrored = interval(-values)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-estimate.high, -estimate.low], rtol=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (20, 20), (7, 10), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(successes: int, n: int, level: float) -> None:
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(wilson(successes / n, n, level), [expected.low, expected.high], atol=1e-12)


def test_equal_outcomes_are_no_certainty() -> None:
    won = interval(np.ones(20))
    # Wilson at p = 1: low = n / (n + z²) = 20 / (20 + 3.8415)
    assert won[:3] == pytest.approx((1.0, 20 / 23.8415, 1.0), abs=1e-5)
    lost = interval(np.zeros(20))
    assert (lost.low, lost.high) == pytest.approx((1 - won.high, 1 - won.low))
    tied = interval(np.full(21, 0.5))
    # Wilson at p = 1/2: half width z / (2·sqrt(n + z²)) = 1.96 / (2·sqrt(24.8415))
    assert tied.high - 0.5 == pytest.approx(1.96 / (2 * 24.8415**0.5), abs=1e-4)
    assert tied.low == pytest.approx(1 - tied.high)


def test_equal_outcomes_of_several_seeds_count_prompts_once() -> None:
    estimate = interval(np.ones((3, 20)))
    assert estimate.n == 60
    assert estimate[:3] == interval(np.ones(20))[:3]


def test_equal_values_that_are_no_rate_have_no_width() -> None:
    assert interval(np.zeros(20), rate=False) == (0.0, 0.0, 0.0, 20)
    assert interval(np.full(20, 2.5)) == (2.5, 2.5, 2.5, 20)
    assert interval([3.25]) == (3.25, 3.25, 3.25, 1)


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
)
def test_bad_values_are_refused(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(values)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        interval([1.0, 2.0], **options)  # type: ignore[arg-type]  # wrong on purpose


def test_intervals_cover_for_one_seed() -> None:
    generator = np.random.default_rng(2024)
    covered = 0
    for run in range(400):
        values = generator.normal(size=200)
        estimate = interval(values, seed=run, resamples=1000)
        covered += estimate.low <= 0.0 <= estimate.high
    assert covered / 400 == pytest.approx(0.95, abs=0.025)


def test_intervals_cover_for_three_seeds_that_differ_by_chance() -> None:
    # The crossed bootstrap errs on the wide side here (it counts the noise of single values more than
    # once, Owen 2007), so only the lower side is bounded.
    generator = np.random.default_rng(2025)
    covered = 0
    for run in range(200):
        prompts = generator.normal(size=(1, 100))
        estimate = interval(prompts + generator.normal(size=(3, 100)), seed=run, resamples=500)
        covered += estimate.low <= 0.0 <= estimate.high
    assert covered / 200 >= 0.925
