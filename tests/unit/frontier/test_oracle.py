"""The oracle line: closed forms, samples, best of n, and shares of it."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from rewards_drawn import MEANS, SD, normal_oracle, normal_samples, small_world, tilted

from preflab.eval.frontier import (
    attainable,
    best_of_n_curve,
    exact_oracle,
    expected_best,
    sampled_oracle,
    under_the_line,
)
from preflab.eval.frontier import oracle as lines
from preflab.eval.records.typed import to_json

# ---- the exact line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [1.0, 3.0, 30.0])
def test_normal_rewards_have_a_closed_form(b):
    """KL = s²/2b² and E[r] = μ + s²/b for each prompt."""
    kl, reward = (SD**2 / (2 * b**2)).mean(), (MEANS + SD**2 / b).mean()
    gain = reward - MEANS.mean()
    assert normal_oracle().reward(kl) == pytest.approx(reward, abs=2.5e-4 * gain)  # the grid of b: 2e-4


@pytest.mark.parametrize("b", [0.05, 0.3, 1.0, 10.0])
def test_every_tilted_policy_lies_on_the_line(b):
    logps, rewards = small_world()
    kl = reward = 0.0
    for x in range(len(rewards)):
        raw = [math.exp(p + r / b) for p, r in zip(logps[x], rewards[x], strict=True)]
        tilted = [value / sum(raw) for value in raw]
        kl += sum(q * (math.log(q) - p) for q, p in zip(tilted, logps[x], strict=True) if q > 0) / len(rewards)
        reward += sum(q * r for q, r in zip(tilted, rewards[x], strict=True)) / len(rewards)
    oracle = exact_oracle(logps, rewards)
    assert oracle.reward(kl) == pytest.approx(reward, abs=2.5e-4 * (reward - oracle.reward(0)))


def test_no_policy_lies_above_the_line():
    logps, rewards = small_world()
    oracle, rng = exact_oracle(logps, rewards), np.random.default_rng(1)
    for scale in np.geomspace(0.01, 30, 300):
        policy = logps + rng.normal(size=logps.shape) * scale + rewards * rng.exponential() * scale
        policy -= np.log(np.exp(policy).sum(1, keepdims=True))
        kl = (np.exp(policy) * (policy - logps)).sum(1).mean()
        assert (np.exp(policy) * rewards).sum(1).mean() <= oracle.reward(kl) + 1e-12


def test_the_line_starts_at_the_reference_and_turns_flat_at_the_best_response():
    logps, rewards = small_world()
    oracle = exact_oracle(logps, rewards)
    assert oracle.reward(0.0) == pytest.approx((np.exp(logps) * rewards).sum(1).mean(), abs=1e-12)
    assert oracle.reward(-0.1) == oracle.reward(0.0)
    rarity = -logps[np.arange(4), rewards.argmax(1)].mean()
    assert oracle.longest == pytest.approx(rarity, abs=1e-6)
    assert oracle.reward(rarity + 1) == pytest.approx(rewards.max(1).mean(), abs=1e-3)
    assert oracle.trusted_kl == math.inf


def test_impossible_responses_do_not_count():
    logps, rewards = small_world()
    wider = exact_oracle(
        np.hstack([logps, np.full((4, 2), -np.inf)]),
        np.hstack([rewards, np.full((4, 1), 99.0), np.full((4, 1), np.nan)]),
    )
    assert wider.reward([0.1, 1.0, 9.0]) == pytest.approx(exact_oracle(logps, rewards).reward([0.1, 1.0, 9.0]))


def test_a_constant_reward_has_a_flat_line():
    logps, _ = small_world()
    for oracle in (exact_oracle(logps, np.full(logps.shape, 0.1)), sampled_oracle(np.full((4, 8), 0.1))):
        assert oracle.reward([0.0, 0.5]) == pytest.approx([0.1, 0.1], abs=1e-12)
        assert attainable(np.full(4, 0.1), np.full(4, 0.2), oracle) is None
        json.dumps(to_json(oracle.line()), allow_nan=False)


@pytest.mark.parametrize(
    ("logps", "rewards", "message"),
    [
        (np.log([[0.5, 0.4]]), [[0.0, 1.0]], "add up to 1"),
        (np.log([[0.5, 0.5]]), [[0.0, 1.0, 2.0]], "must both be"),
        (np.log([[0.5, 0.5]]), [[0.0, np.nan]], "finite reward"),
    ],
    ids=["no distribution", "shapes", "nan"],
)
def test_what_is_no_world_is_refused(logps, rewards, message):
    with pytest.raises(ValueError, match=message):
        exact_oracle(logps, rewards)


# ---- the line from samples ---------------------------------------------------------------------------


def test_samples_of_equal_weight_are_an_exact_world_but_for_the_jackknife():
    """Leaving each of M samples out by a loop gives the estimate: M L − (M − 1) mean of L without one."""
    rewards, samples = normal_samples(3, 6), 6

    def log_mean(values):
        return math.log(sum(math.exp(v / b) for v in values) / len(values))

    oracle = sampled_oracle(rewards)
    place = np.abs(oracle.temperatures - 0.7).argmin()
    b = oracle.temperatures[place]
    expected = [
        b * (samples * log_mean(row) - (samples - 1) * np.mean([log_mean(np.delete(row, i)) for i in range(samples)]))
        for row in rewards
    ]
    assert oracle.bounds[place] == pytest.approx(expected, abs=1e-9)
    weights = np.exp(rewards / b) / np.exp(rewards / b).sum(1, keepdims=True)
    assert oracle.ess[place] == pytest.approx((1 / (weights**2).sum(1)).mean())


@pytest.mark.parametrize(("prompts", "samples"), [(2500, 16), (400, 64), (100, 256)])
def test_the_sampled_line_of_normal_rewards_keeps_two_percent(prompts, samples):
    far = []
    for seed in range(3):
        oracle = sampled_oracle(normal_samples(prompts, samples, seed))
        kl = np.linspace(0.05, math.sqrt(oracle.trusted_kl), 30) ** 2
        gain = oracle.reward(kl) - oracle.reference.mean()
        assert gain == pytest.approx(np.sqrt(2 * kl), rel=0.02)
        far.append(oracle.trusted_kl)
    assert min(far) > 0.05, "trusted for a while: else nothing was tested"


def test_a_tail_that_samples_cannot_show_is_not_trusted():
    """Exponential rewards: exp(r/b) has no finite mean from b = 1 down, at KL infinite, and no variance from 2."""
    rewards = np.random.default_rng(0).exponential(size=(256, 64))
    assert sampled_oracle(rewards).trusted_kl < 0.15
    assert sampled_oracle(normal_samples(256, 64)).trusted_kl > 0.3


def test_trust_grows_with_samples_and_with_tolerance():
    few, many = (sampled_oracle(normal_samples(200, n)).trusted_kl for n in (32, 512))
    assert few < many
    assert sampled_oracle(normal_samples(200, 32), 0.1).trusted_kl > few
    assert sampled_oracle(normal_samples(4, 4)).trusted_kl == 0.0
    assert sampled_oracle(normal_samples(200, 32), 0.999).trusted_kl <= math.log(32) + 1e-9


def test_order_shift_and_scale_of_rewards_change_nothing_else():
    rewards = normal_samples(60, 40)
    kl = np.array([0.1, 0.5, 1.0])
    first = sampled_oracle(rewards, 0.1)
    shuffled = sampled_oracle(np.random.default_rng(1).permuted(rewards, axis=1), 0.1)
    assert shuffled.reward(kl) == pytest.approx(first.reward(kl))
    assert shuffled.trusted_kl == pytest.approx(first.trusted_kl)
    moved = sampled_oracle(3 * rewards + np.arange(60.0)[:, None], 0.1)
    assert moved.reward(kl) == pytest.approx(3 * first.reward(kl) + np.arange(60.0).mean())
    assert moved.trusted_kl == pytest.approx(first.trusted_kl)
    assert first.trusted_kl > 0


def test_a_reward_of_few_values_saturates():
    """Half of the responses are best: log 2 of KL buys them all, and more buys nothing."""
    rewards = (np.random.default_rng(0).random((400, 64)) < 0.5).astype(float)
    oracle = sampled_oracle(rewards)
    assert oracle.reward([math.log(2), 2.0]) == pytest.approx([1.0, 1.0], abs=0.01)
    # By hand: at success probability q, KL = q log 2q + (1−q) log 2(1−q).
    q = 0.8
    assert oracle.reward(q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q))) == pytest.approx(q, abs=0.01)


def test_the_record_is_cut_at_the_trusted_kl():
    oracle = sampled_oracle(normal_samples(256, 64))
    record = oracle.line()
    assert record.kl[-1] == pytest.approx(record.trusted_kl)
    assert len(record.kl) == len(record.reward) == len(record.low) == len(record.high) == len(record.ess)
    assert (np.diff(record.reward) > 0).all()
    assert (np.diff(record.ess) <= 0).all()
    assert (np.array(record.low) < record.reward).all()
    assert (np.array(record.high) > record.reward).all()
    exact = normal_oracle().line()
    assert exact.trusted_kl is None
    assert exact.low == exact.high == exact.reward
    assert normal_oracle().line(longest=2.0).kl[-1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        (np.zeros((4, 3)), {}, "at least 4"),
        (np.full((4, 8), np.inf), {}, "finite"),
        (np.zeros((4, 8)), {"tolerance": 2.0}, "between 0 and 1"),
    ],
    ids=["few", "infinite", "tolerance"],
)
def test_samples_that_cannot_do_are_refused(rewards, options, message):
    with pytest.raises(ValueError, match=message):
        sampled_oracle(rewards, **options)


# ---- best-of-n ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_the_expected_best_is_the_mean_over_all_subsets(n):
    rewards = np.random.default_rng(0).integers(4, size=(3, 7)).astype(float)  # ties
    loop = [np.mean([max(subset) for subset in itertools.combinations(row, n)]) for row in rewards]
    assert expected_best(rewards, n) == pytest.approx(loop, abs=1e-12)


def test_there_is_no_best_of_more_than_there_are():
    for n in (0, 8):
        with pytest.raises(ValueError, match="between 1 and the 7"):
            expected_best(np.zeros((2, 7)), n)


def test_best_of_n_climbs_under_the_line_to_a_quarter_of_the_samples():
    rewards = normal_samples(300, 64)
    rows, oracle = best_of_n_curve(rewards), sampled_oracle(rewards)
    assert (rows[0].n, rows[0].kl) == (1, 0.0)
    assert rows[0].gold_reward == pytest.approx(rewards.mean())
    assert rows[-1].n == 16
    # The largest of 16 standard normal values is 1.766 on average.
    assert rows[-1].low < 1.766 < rows[-1].high
    assert rows[-1].kl == pytest.approx(math.log(16) - 15 / 16)
    for row in rows[1:]:
        assert row.gold_reward < oracle.reward(row.kl)


def test_the_optimum_attains_all_and_half_of_it_half():
    oracle, means, kl, gain = tilted(2.0)
    share = attainable([means + gain] * 2, [kl] * 2, oracle)
    assert share.mean == pytest.approx(1.0, abs=1e-3)
    assert (share.low, share.high) == pytest.approx((1.0, 1.0), abs=0.02), "what a prompt has moves together"
    assert attainable(means + gain / 2, kl, oracle).mean == pytest.approx(0.5, abs=1e-3)
    assert attainable(means + 0.1, kl, oracle, means + 0.1).mean == pytest.approx(0.0, abs=1e-12)
    assert attainable(means - gain, kl, oracle).high < 0
    assert attainable(means, kl, oracle, means + 9) is None, "nothing is attainable"


def test_there_is_no_share_where_the_line_is_not_trusted_or_nothing_is_to_be_had():
    rewards = normal_samples(256, 64)
    oracle, rng = sampled_oracle(rewards), np.random.default_rng(1)
    kl = rng.normal(0.3, 0.5, size=(3, 256))
    reward = rewards.mean(1) + 0.6
    assert attainable([reward] * 3, kl, oracle).mean == pytest.approx(0.6 / math.sqrt(2 * kl.mean()), rel=0.02)
    assert attainable([reward] * 3, kl + oracle.trusted_kl, oracle) is None
    assert under_the_line([reward] * 3, kl + oracle.trusted_kl, oracle).holds is None
    assert attainable([reward] * 3, kl - 0.29, oracle) is None
    assert attainable([reward] * 3, -kl, oracle) is None


def test_intervals_of_the_share_cover(monkeypatch):
    """Rewards and KLs are noisy, and so are seeds: of 200 evaluations at 80 %, about 95 % cover that."""
    monkeypatch.setattr(lines, "_TEMPERATURES", np.geomspace(3, 0.3, 30))
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        oracle = sampled_oracle(rng.normal(size=(80, 32)), 0.9)
        kl = 0.5 + rng.normal(size=(3, 80)) * 0.3
        reward = 0.8 + rng.normal(size=(3, 80)) * 0.6 + rng.normal(size=(3, 1)) * 0.1
        found = attainable(reward, kl, oracle)
        covered += found.low <= 0.8 <= found.high
    assert 180 <= covered <= 199  # of a binomial(200, 0.95), 0.1 % lie outside


def test_a_point_above_the_line_is_found_out():
    oracle, means, kl, gain = tilted(2.0)
    on, above = (under_the_line(means + share * gain, kl, oracle) for share in (1.0, 1.1))
    assert on.holds is True
    assert above.holds is False
    assert above.excess.mean == pytest.approx(0.1 * gain.mean(), abs=1e-3)


def test_tables_of_other_prompts_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        attainable(np.zeros(4), np.zeros(4), normal_oracle())
    with pytest.raises(ValueError, match="same shape"):
        attainable(np.zeros((2, 3)), np.zeros(3), normal_oracle())
    with pytest.raises(ValueError, match="not finite"):
        attainable(np.full(3, np.nan), np.zeros(3), normal_oracle())
