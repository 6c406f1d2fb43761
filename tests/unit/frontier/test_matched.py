"""Methods read at equal KL."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rewards_drawn import curve

from eval.frontier import (
    Point,
    fit_overoptimisation,
    matched,
    matched_differences,
)


def test_methods_are_read_at_shared_kls_inside_all_ranges():
    a = curve("a", [4.0, 0.25, 1.0], lambda k: 2 * math.sqrt(k))
    b = curve("b", [9.0, 0.36], lambda k: math.sqrt(k) - 1)
    rows = matched([*a, *b, *curve("single", [1.0], math.sqrt)], count=3)
    assert [row.method for row in rows] == ["a", "b"] * 3
    assert [row.kl for row in rows[::2]] == pytest.approx([0.36, 1.3**2, 4.0])
    for row in rows:
        d = math.sqrt(row.kl)
        assert row.gold_reward.mean == pytest.approx(2 * d if row.method == "a" else d - 1)
    differences = matched_differences([*a, *b], count=3)
    assert [row.difference.mean for row in differences] == pytest.approx([0.6 + 1, 1.3 + 1, 2.0 + 1])
    assert {(row.first, row.second) for row in differences} == {("a", "b")}


def test_nothing_is_extrapolated():
    a, b = curve("a", [0.1, 0.5], math.sqrt), curve("b", [1.0, 2.0], math.sqrt)
    assert matched([*a, *b]) == []
    assert matched_differences([*a, *b]) == []
    assert matched([]) == []
    noisy = curve("a", [0.5, 4.0], math.sqrt, noise=0.3) + curve("b", [0.5, 4.0], math.sqrt, 1, noise=0.3)
    kls = [row.kl for row in matched(noisy)]
    means = [np.mean(point.kl) for point in noisy]
    assert max(means[0], means[2]) + 0.01 < min(kls)
    assert max(kls) < min(means[1], means[3]) - 0.01


def test_settings_at_one_kl_are_one_place():
    twice = curve("a", [0.0, 0.0, 1.0], math.sqrt)
    rows = matched([*twice, *curve("b", [0.0, 1.0], math.sqrt)], count=2)
    assert [row.gold_reward.mean for row in rows] == pytest.approx([0.0, 0.0, 1.0, 1.0])
    assert matched([*curve("a", [1.0, 1.0], math.sqrt), *curve("b", [0.5, 2.0], math.sqrt)]) == []


def test_the_seeds_that_all_settings_have_count():
    rng = np.random.default_rng(0)
    few, many = (Point("a", {}, np.full((s, 9), k), k + rng.normal(size=(s, 9))) for s, k in ((2, 1.0), (3, 2.0)))
    cut = many._replace(kl=many.kl[:2], gold_reward=many.gold_reward[:2])
    others = curve("b", [0.5, 3.0], math.sqrt, prompts=9)
    assert matched([few, many, *others]) == matched([few, cut, *others])
    assert matched_differences([few, many, *others]) == matched_differences([few, cut, *others])
    points = [few, cut, Point("a", {}, np.full((2, 9), 3.0), np.zeros((2, 9)))]

    def law(points):
        return fit_overoptimisation(
            [p.kl for p in points], [p.gold_reward for p in points], np.zeros(9), proxy_reward=[p.kl for p in points]
        )

    assert law([few, many, points[2]]) == law(points)
    with pytest.raises(ValueError, match="number of seeds"):
        matched([few, many._replace(kl=many.kl[:2])])
    with pytest.raises(ValueError, match="number of seeds"):
        law([few, many._replace(gold_reward=cut.gold_reward), points[2]])


def test_what_all_methods_share_cancels_in_differences():
    """Prompts differ by far more than methods: the paired difference is known though neither curve is."""
    easy = np.random.default_rng(0).normal(size=50) * 10
    a, b = (
        [Point(name, {}, np.full(50, k), easy + shift + k) for k in (1.0, 2.0)]
        for name, shift in (("a", 0.5), ("b", 0.0))
    )
    row = matched([*a, *b])[0].gold_reward
    assert row.high - row.low > 2
    found = matched_differences([*a, *b])[0].difference
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_a_kl_that_is_measured_widens_what_is_read_at_it():
    """Along R = 10 d, an error of KL is one of reward: dR = 10 dK / 2d."""
    rng = np.random.default_rng(0)
    kl = 1.0 + rng.normal(size=400) * 0.5
    kl += 1.0 - kl.mean()
    a = [Point("a", {}, k, np.full(400, 10.0 * d)) for k, d in ((np.full(400, 0.01), 0.1), (kl, 1.0))]
    row = matched([*a, *curve("b", [0.0, 9.0], math.sqrt, prompts=400)], count=2)[2]
    share = (math.sqrt(row.kl) - 0.1) / 0.9
    width = row.gold_reward.high - row.gold_reward.low
    assert width == pytest.approx(share * 2 * 1.966 * (10 / 2) * kl.std(ddof=1) / 20, rel=1e-3)


def test_a_setting_that_moves_along_its_curve_says_the_same():
    """Whatever KL was measured, the reward was measured to match: what is read between is known all the same."""
    kl = 1.0 + np.random.default_rng(0).normal(size=400) * 0.5
    d = math.sqrt(kl.mean())
    end = Point("a", {}, kl, 10 * (d + (kl - kl.mean()) / (2 * d)))
    start = Point("a", {}, np.full(400, 0.01), np.full(400, 1.0))
    row = matched([start, end, *curve("b", [0.0, 9.0], math.sqrt, prompts=400)], count=2)[2]
    assert row.gold_reward.high - row.gold_reward.low < 1e-9
    assert row.gold_reward.mean == pytest.approx(10 * math.sqrt(row.kl))


def test_intervals_at_matched_kl_cover():
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        points = [
            Point(
                name,
                {},
                k + rng.normal(size=(3, 60)) * 0.6,
                math.sqrt(k) + shift + rng.normal(size=(3, 60)) + rng.normal(size=(3, 1)) * 0.2,
            )
            for name, shift in (("a", 0.3), ("b", 0.0))
            for k in (0.5, 1.0, 2.0, 4.0)
        ]
        found = matched_differences(points, count=1)[0].difference
        covered += found.low <= 0.3 <= found.high
    assert 273 <= covered <= 297  # of a binomial(300, 0.95), 0.3 % lie outside
