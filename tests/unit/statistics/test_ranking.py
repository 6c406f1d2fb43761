"""Bradley-Terry ratings, and win rates at equal length."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binomtest

from preflab.eval.statistics import bradley_terry, interval, length_controlled_win_rate

POINTS = 400 / np.log(10)


def games(strengths: dict[str, float], seeds: int, n: int, generator: np.random.Generator) -> dict:
    names = list(strengths)
    return {
        (a, b): (generator.random((seeds, seeds, n)) < expit(strengths[a] - strengths[b])).astype(float)
        for k, a in enumerate(names)
        for b in names[k + 1 :]
    }


def test_two_methods_have_the_log_odds_of_their_wins() -> None:
    wins = np.array([[1.0] * 30 + [0.0] * 10])
    first, second = bradley_terry(["a", "b"], {("a", "b"): wins})
    # Half a win added to both: log(30.5 / 10.5) apart, 400 points for each factor of ten.
    assert first.rating.mean - second.rating.mean == pytest.approx(400 * np.log10(30.5 / 10.5))
    assert first.rating.mean + second.rating.mean == pytest.approx(2000)
    assert (first.method, first.rank_low, first.rank_high) == ("a", 1, 1)
    assert (second.method, second.rank_low, second.rank_high) == ("b", 2, 2)
    # Log-odds have variance 1 / (n p (1 - p)), to first order; ratings move by half of it.
    half = 1.96 * POINTS / 2 / (40 * 0.75 * 0.25) ** 0.5
    assert first.rating.high - first.rating.mean == pytest.approx(half, rel=0.08)


def test_ratings_agree_with_plain_maximum_likelihood() -> None:
    table = games({"a": 0.0, "b": 0.7, "c": -0.5, "d": 1.5}, 1, 200, np.random.default_rng(0))

    def loss(x: np.ndarray) -> float:
        strength = dict(zip("abcd", x, strict=True))
        total = 0.0
        for (i, j), wins in table.items():
            gap = strength[i] - strength[j]
            total -= (wins.sum() + 0.5) * np.log(expit(gap)) + (200 - wins.sum() + 0.5) * np.log(expit(-gap))
        return total + x.sum() ** 2

    expected = dict(zip("abcd", 1000 + POINTS * minimize(loss, np.zeros(4), tol=1e-10).x, strict=True))
    found = {rank.method: rank.rating.mean for rank in bradley_terry("abcd", table)}
    assert found == pytest.approx(expected, abs=0.01)


def test_order_and_direction_of_pairs_do_not_matter() -> None:
    table = games({"a": 0.0, "b": 0.7, "c": -0.5}, 2, 60, np.random.default_rng(1))
    turned = {(b, a): 1 - np.swapaxes(wins, 0, 1) for (a, b), wins in reversed(table.items())}
    for one, other in zip(bradley_terry("abc", table), bradley_terry("cab", turned), strict=True):
        assert one.method == other.method
        assert one.rating == pytest.approx(other.rating)


def test_ranks_are_those_that_the_intervals_leave_open() -> None:
    table = games({"best": 2.0, "x": 0.0, "y": 0.0, "worst": -2.0}, 1, 150, np.random.default_rng(2))
    found = {rank.method: (rank.rank_low, rank.rank_high) for rank in bradley_terry(["worst", "x", "best", "y"], table)}
    assert found == {"best": (1, 1), "x": (2, 3), "y": (2, 3), "worst": (4, 4)}


def test_a_method_that_wins_everything_is_finite_wide_and_marked() -> None:
    table = games({"x": 0.0, "y": 0.0}, 1, 50, np.random.default_rng(3))
    table |= {("hero", "x"): np.ones((1, 1, 50)), ("hero", "y"): np.ones((1, 1, 50))}
    hero, *others = bradley_terry(["x", "y", "hero"], table)
    assert (hero.method, hero.separated) == ("hero", True)
    assert not any(other.separated for other in others)
    assert np.isfinite(hero.rating.high)
    # Nothing varies in its games; what is known is that it lost none of 50.
    assert hero.rating.high - hero.rating.low > 1.5 * (others[0].rating.high - others[0].rating.low)
    assert all(rank.separated for rank in bradley_terry("ab", {("a", "b"): np.ones((1, 20))}))


def test_seeds_that_differ_widen_ratings() -> None:
    generator = np.random.default_rng(4)
    steady = (generator.random((3, 100)) < 0.6).astype(float)
    chances = np.array([[0.3], [0.6], [0.9]])
    moved = (generator.random((3, 100)) < chances).astype(float)
    widths = [np.diff(bradley_terry("ab", {("a", "b"): wins})[0].rating[1:3])[0] for wins in (steady, moved)]
    assert widths[1] > 3 * widths[0]


def test_games_of_more_seeds_are_not_counted_twice() -> None:
    # 25 games for each: standard errors a fifth, times about 1.15 for the t quantile. Twice the variance were 0.32.
    generator = np.random.default_rng(5)
    widths = {1: 0.0, 5: 0.0}
    for seeds in widths:
        for _ in range(20):
            rating = bradley_terry("abc", games({"a": 0.0, "b": 0.0, "c": 0.0}, seeds, 96, generator))[0].rating
            widths[seeds] += rating.high - rating.low
    assert 0.2 < widths[5] / widths[1] < 0.28


@pytest.mark.parametrize("seeds", [1, 3])
def test_ratings_cover(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    truth = {"a": 0.0, "b": 0.5, "c": 1.5}
    runs, covered = 120, 0
    for _ in range(runs):
        for rank in bradley_terry("abc", games(truth, seeds, 96, generator)):
            expected = 1000 + POINTS * (truth[rank.method] - 2.0 / 3)
            covered += rank.rating.low <= expected <= rank.rating.high
    # The three ratings of a run are correlated: count runs, not ratings, as trials.
    assert binomtest(round(covered / 3), runs, 0.935, alternative="less").pvalue > 1e-3
    assert covered < 3 * runs


def test_one_method_and_wrong_games() -> None:
    (alone,) = bradley_terry(["a"], {})
    assert alone.rating[:3] == (1000.0, 1000.0, 1000.0)
    wins = np.ones((1, 4))
    for methods, table, message in (
        ("abc", {("a", "b"): wins}, "give each pair once"),
        ("ab", {("a", "b"): wins, ("b", "a"): wins}, "give each pair once"),
        ("ab", {("a", "z"): wins}, "'z'"),
        ("ab", {("a", "b"): wins * 2}, "between 0 and 1"),
        ("ab", {("a", "b"): wins * np.nan}, "between 0 and 1"),
        ("ab", {("a", "b"): wins[0]}, "shape"),
        ("abc", {("a", "b"): wins, ("a", "c"): wins, ("b", "c"): wins[:, 1:]}, "number of prompts"),
        ("abc", {("a", "b"): np.eye(2), ("a", "c"): np.eye(2), ("b", "c"): np.ones((3, 2))}, "number of seeds"),
    ):
        with pytest.raises(ValueError, match=message):
            bradley_terry(methods, table)


# ---- length control ----------------------------------------------------------------------------------


def longer_wins(generator: np.random.Generator, effect: float, n: int, shift: float = 10.0) -> tuple:
    longer = generator.normal(shift, 30.0, size=n)
    chance = expit(0.4 + effect * np.tanh(longer / longer.std()))
    return (generator.random(n) < chance).astype(float), longer


def test_length_control_agrees_with_plain_logistic_regression() -> None:
    wins, longer = longer_wins(np.random.default_rng(0), 1.5, 400)
    wins[::7] = 0.5  # soft wins
    x = np.tanh(longer / longer.std())

    def loss(b: np.ndarray) -> float:
        chance = expit(b[0] + b[1] * x)
        games = -(wins * np.log(chance) + (1 - wins) * np.log(1 - chance)).sum()
        # the tied game at equal length, and the normal prior
        return games - 0.5 * np.log(expit(b[0]) * expit(-b[0])) + b[1] ** 2 / 18

    theta, phi = minimize(loss, np.zeros(2), tol=1e-10).x
    found = length_controlled_win_rate(wins, longer)
    assert found.win_rate.mean == pytest.approx(expit(theta), abs=1e-5)
    assert found.length_effect == pytest.approx(phi, abs=1e-4)
    assert found.note is None


def test_length_control_takes_out_what_length_gave() -> None:
    wins, longer = longer_wins(np.random.default_rng(1), 2.5, 2000, shift=40.0)
    found = length_controlled_win_rate(wins, longer)
    assert wins.mean() > 0.8
    assert found.win_rate.low < expit(0.4) < found.win_rate.high < wins.mean()
    # Unit of length does not matter; who is called first turns it around.
    np.testing.assert_allclose(
        length_controlled_win_rate(wins, 4.0 * longer).win_rate[:3], found.win_rate[:3], atol=1e-6
    )
    turned = length_controlled_win_rate(1 - wins, -longer).win_rate
    np.testing.assert_allclose([turned.mean, turned.high], [1 - found.win_rate.mean, 1 - found.win_rate.low], atol=1e-6)


def test_length_controlled_interval_has_the_width_of_the_fit() -> None:
    wins, longer = longer_wins(np.random.default_rng(5), 1.0, 2000, shift=40.0)
    x = np.tanh(longer / longer.std())
    found = length_controlled_win_rate(wins, longer)
    share = found.win_rate.mean
    chance = expit(np.log(share / (1 - share)) + found.length_effect * x)
    design = np.stack([np.ones_like(x), x])
    covariance = np.linalg.inv((design * chance * (1 - chance)) @ design.T)
    expected = 2 * 1.96 * share * (1 - share) * covariance[0, 0] ** 0.5
    assert found.win_rate.high - found.win_rate.low == pytest.approx(expected, rel=0.05)


def test_length_that_does_not_matter_leaves_the_win_rate() -> None:
    wins, longer = longer_wins(np.random.default_rng(2), 0.0, 1000, shift=0.0)
    found, plain = length_controlled_win_rate(wins, longer).win_rate, interval(wins, rate=True)
    np.testing.assert_allclose(found[:3], plain[:3], atol=0.01)


def test_several_answers_of_the_opponent_are_games_of_their_own() -> None:
    """The baseline's longer answers win more often, which their mean would hide; a prompt is one value all the same."""
    generator, runs, covered = np.random.default_rng(6), 100, 0
    for _ in range(runs):
        longer = generator.normal(60, 18, size=100) - generator.normal(50, 15, size=(4, 100))
        wins = (generator.random((4, 100)) < expit(1.0 + 3.0 * np.tanh(longer / longer.std()))).astype(float)
        found = length_controlled_win_rate(wins[None], longer[None])
        covered += found.win_rate.low <= expit(1.0) <= found.win_rate.high
    assert binomtest(covered, runs, 0.93, alternative="less").pvalue > 1e-3
    same = length_controlled_win_rate(wins, longer)
    assert (found.win_rate.mean, found.length_effect) == (same.win_rate.mean, same.length_effect)
    assert found.win_rate.n == 100
    alone = length_controlled_win_rate(wins[:1, None], longer[:1, None])
    assert alone == length_controlled_win_rate(wins[0], longer[0])
    equal = length_controlled_win_rate(wins[None], np.zeros((1, 4, 100)))
    assert equal.win_rate == interval(wins.mean(0), rate=True)


def test_length_controlled_intervals_cover() -> None:
    generator, runs, covered = np.random.default_rng(3), 200, 0
    for _ in range(runs):
        found = length_controlled_win_rate(*longer_wins(generator, 2.0, 96)).win_rate
        covered += found.low <= expit(0.4) <= found.high
    assert binomtest(covered, runs, 0.935, alternative="less").pvalue > 1e-3
    assert binomtest(covered, runs, 0.965, alternative="greater").pvalue > 1e-3


def test_degenerate_cases_say_what_they_are() -> None:
    generator = np.random.default_rng(4)
    wins, longer = (generator.random(60) < 0.6).astype(float), generator.normal(size=60)
    equal = length_controlled_win_rate(wins, np.zeros(60))
    assert equal.win_rate == interval(wins, rate=True)
    assert "all length differences are equal" in str(equal.note)
    won = length_controlled_win_rate(np.ones(60), longer)
    assert won.win_rate == interval(np.ones(60), rate=True)
    assert "all outcomes are equal" in str(won.note)
    split = length_controlled_win_rate((longer > 0).astype(float), longer)
    assert "length alone" in str(split.note)
    assert np.isfinite(split.length_effect)
    always = length_controlled_win_rate(wins, abs(longer) + 1.0)
    assert "every response is longer" in str(always.note)
    with pytest.raises(ValueError, match="shape"):
        length_controlled_win_rate(wins, longer[:-1])
    with pytest.raises(ValueError, match="between 0"):
        length_controlled_win_rate(2 * wins, longer)
