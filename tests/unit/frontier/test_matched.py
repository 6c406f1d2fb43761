"""Methods read at equal KL."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rewards_drawn import curve

from preflab.eval.frontier import (
    Point,
    equal_kl,
    fit_overoptimisation,
    matched,
    matched_differences,
)
from preflab.eval.statistics import holm


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


def back(method, ends, law, seed=0, prompts=60, noise=0.0, shares=(0.0, 0.25, 0.5, 1.0)):
    """A method's way back to the start, from another KL with every seed; no noise at the start."""
    rng = np.random.default_rng(seed)
    kls = [np.array([[share**2 * end] * prompts for end in ends]) for share in shares]
    return [Point(method, {}, kl, law(np.sqrt(kl)) + noise * (kl > 0) * rng.normal(size=kl.shape)) for kl in kls]


def test_the_mean_difference_over_the_kls_that_both_reach_is_one_test():
    a, b = back("a", [4.0, 2.25], lambda d: 2.0 * d), back("b", [9.0, 1.0, 4.0], lambda d: 1.5 * d)
    (row,) = equal_kl([*a, *b], count=4)
    assert (row.first, row.second, row.verdict) == ("a", "b", "first")
    assert (row.low_kl, row.high_kl) == pytest.approx((0.25**2, 1.0)), "to where the shortest way of any seed ends"
    assert row.difference.mean == pytest.approx(0.5 * np.mean([0.25, 0.5, 0.75, 1.0]))
    assert [at.kl for at in row.band] == pytest.approx([d**2 for d in (0.25, 0.5, 0.75, 1.0)])
    assert [at.difference.mean for at in row.band] == pytest.approx([0.5 * d for d in (0.25, 0.5, 0.75, 1.0)])


def test_seeds_at_other_kls_are_no_difference_between_methods_of_one_law():
    def law(d):
        return 2.0 * d - 0.3 * d**2

    shares = np.linspace(0.0, 1.0, 33)
    a, b = (back(name, ends, law, shares=shares) for name, ends in (("a", [6.0, 1.0]), ("b", [3.0, 1.2])))
    (row,) = equal_kl([*a, *b])
    assert row.difference.mean == pytest.approx(0.0, abs=2e-3)


def test_the_band_is_wider_than_the_intervals_of_its_places_alone():
    a, b = (back(name, [4.0], lambda d: d, seed, noise=1.0) for seed, name in enumerate("ab"))
    (row,) = equal_kl([*a, *b], count=8)
    alone = {at.kl: at.difference for at in matched_differences([*a, *b], count=9)}
    at = row.band[-1]
    assert at.difference.high - at.difference.low > 1.2 * (alone[at.kl].high - alone[at.kl].low)
    assert row.difference.high - row.difference.low < at.difference.high - at.difference.low


@pytest.mark.parametrize("paired", [False, True])
def test_equal_methods_are_told_apart_no_oftener_than_the_level_says(paired):
    rng, found = np.random.default_rng(3), []
    for _ in range(300):
        replication, shared = rng.normal(scale=0.3, size=3) * paired, rng.normal(size=80)
        points = []
        for name in "ab":
            own = replication + rng.normal(scale=0.1, size=3)
            ends = rng.uniform(1.0, 3.0, size=3)
            for share in (0.0, 0.5, 1.0):
                kl = np.tile((share**2 * ends)[:, None], 80)
                noise = share * (own[:, None] + shared + rng.normal(size=(3, 80)))
                points.append(Point(name, {}, kl, np.sqrt(kl) + noise))
        found.append(equal_kl(points, paired=paired)[0].p < 0.05)
    assert 0.02 <= np.mean(found) <= 0.085


def test_several_pairs_are_corrected_together():
    points = [p for at, name in enumerate("abc") for p in back(name, [2.0], lambda d: d, at, noise=0.5)]
    rows = equal_kl(points)
    assert [(row.first, row.second) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row.p_adjusted for row in rows] == pytest.approx(holm([row.p for row in rows]))
    assert equal_kl(points[:4]) == []
