"""Reward models' losses: worked values, NumPy references, limits, gradients, junk under the mask, mutations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from preflab.algorithms.reward import Reward, RewardConfig
from preflab.algorithms.reward_pl import RewardPL, RewardPLConfig
from preflab.method.contract import Batch, Labels, Scores

NAN = float("nan")


def make_batch(present, **feedback):
    """Return a batch of responses of one token; ``present [B]`` of each prompt are there, the rest are empty."""
    count, most = len(present), max(present)
    mask = (torch.arange(most) < torch.tensor(present)[:, None])[..., None]
    ids = torch.zeros(count, most, 1, dtype=torch.long)
    said = {name: torch.tensor(values, dtype=torch.float64) for name, values in feedback.items()}
    return Batch(torch.full((count, 2), 5), torch.ones(count, 2, dtype=torch.bool), ids, mask, Labels(**said))


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def randoms(shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * 2)


def values(algorithm, batch, rewards):
    return algorithm.loss(batch, Scores(rewards=rewards)).values


def sigma(x):
    return 1 / (1 + math.exp(-x))


# ---- Bradley-Terry -----------------------------------------------------------------------------------


def test_margin_is_taken_from_the_lead():
    # Δ − m: 3 − 1 = 2; 1.5 − 1.5 − 0 = 0; 0 − 5 − 2 = −7.
    batch = make_batch([2, 2, 2], margin=[1.0, 0.0, 2.0])
    found = values(Reward(RewardConfig()), batch, tensor([[2.0, -1.0], [1.5, 1.5], [0.0, 5.0]]))
    assert found.tolist() == pytest.approx([-math.log(sigma(x)) for x in (2.0, 0.0, -7.0)], rel=1e-12)


def test_soft_label_is_the_cross_entropy():
    # p = 1, 3/4, 1/2, 0 at Δ = 2.
    batch = make_batch([2] * 4, preference=[1.0, 0.75, 0.5, 0.0])
    found = values(Reward(RewardConfig()), batch, tensor([[1.0, -1.0]] * 4))
    win, lose = -math.log(sigma(2)), -math.log(sigma(-2))
    expected = [win, 0.75 * win + 0.25 * lose, 0.5 * win + 0.5 * lose, lose]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_label_smoothing_moves_labels_to_the_other_side():
    # ε = .1: 1 becomes .9, .75 becomes .675 + .025 = .7, and .5 stays.
    rewards = tensor([[1.0, -1.0]] * 3)
    smooth = values(
        Reward(RewardConfig(label_smoothing=0.1)), make_batch([2] * 3, preference=[1.0, 0.75, 0.5]), rewards
    )
    plain = values(Reward(RewardConfig()), make_batch([2] * 3, preference=[0.9, 0.7, 0.5]), rewards)
    torch.testing.assert_close(smooth, plain, rtol=1e-12, atol=0)
    unlabelled = values(Reward(RewardConfig(label_smoothing=0.1)), make_batch([2] * 3), rewards)
    torch.testing.assert_close(unlabelled, smooth[:1].expand(3), rtol=1e-12, atol=0)


def reference(config, rewards, preference, margin):
    """The docstring's equation, pair by pair."""
    found = []
    for (chosen, rejected), p, m in zip(rewards, preference, margin, strict=True):
        p = (1 - config.label_smoothing) * p + config.label_smoothing * (1 - p)
        lead = chosen - rejected - m
        nll = p * np.log1p(np.exp(-lead)) + (1 - p) * np.log1p(np.exp(lead))
        found.append(nll + config.centre_coefficient * (chosen + rejected) ** 2)
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_all_options_together_are_the_equation(seed):
    rng, config = np.random.default_rng(seed), RewardConfig(label_smoothing=0.2, centre_coefficient=0.3)
    preference, margin = rng.uniform(size=8), rng.exponential(size=8)
    rewards = randoms((8, 2), seed)
    batch = make_batch([2] * 8, preference=preference.tolist(), margin=margin.tolist())
    expected = reference(config, rewards.numpy(), preference, margin)
    np.testing.assert_allclose(values(Reward(config), batch, rewards).numpy(), expected, rtol=1e-12)


def test_minimum_is_at_margin_plus_log_odds():
    """What makes −m, rather than m or 0, right for the other order."""
    p, m = [0.8, 0.6, 0.3, 0.5], [0.5, 0.0, 2.0, 1.0]
    batch = make_batch([2] * 4, preference=p, margin=m)
    best = tensor([[mi + math.log(pi / (1 - pi)), 0.0] for pi, mi in zip(p, m, strict=True)]).requires_grad_()
    lowest = values(Reward(RewardConfig()), batch, best)
    lowest.sum().backward()
    torch.testing.assert_close(best.grad, torch.zeros_like(best), rtol=0, atol=1e-12)
    for step in (-0.1, 0.1):
        assert (values(Reward(RewardConfig()), batch, best.detach() + tensor([step, 0.0])) > lowest).all()


def test_naming_the_responses_the_other_way_round_changes_nothing():
    p, m, rewards = [0.9, 0.2], [0.5, 1.0], randoms((2, 2))
    config = RewardConfig(label_smoothing=0.1, centre_coefficient=0.2)
    named = values(Reward(config), make_batch([2, 2], preference=p, margin=m), rewards)
    turned = make_batch([2, 2], preference=[1 - x for x in p], margin=[-x for x in m])
    torch.testing.assert_close(values(Reward(config), turned, rewards.flip(1)), named, rtol=1e-12, atol=0)


def test_centring_pulls_the_sum_of_scores_to_zero():
    # c (r_c + r_r)² = .5 · (2 − 1)² = .5; its slope is 2 c (r_c + r_r) = 1 for both.
    rewards = tensor([[2.0, -1.0]]).requires_grad_()
    centred = values(Reward(RewardConfig(centre_coefficient=0.5)), make_batch([2]), rewards)
    centring = centred - values(Reward(RewardConfig()), make_batch([2]), rewards)
    assert centring.item() == pytest.approx(0.5, rel=1e-12)
    (slope,) = torch.autograd.grad(centring.sum(), rewards)
    assert slope.tolist() == [pytest.approx([1.0, 1.0], rel=1e-9)]


def test_gradcheck():
    batch = make_batch([2] * 3, preference=[1.0, 0.7, 0.4], margin=[0.0, 1.0, 2.0])
    algorithm = Reward(RewardConfig(label_smoothing=0.1, centre_coefficient=0.2))
    assert torch.autograd.gradcheck(lambda r: values(algorithm, batch, r), randoms((3, 2)).requires_grad_())
    ranked, rankings = RewardPL(RewardPLConfig(centre_coefficient=0.2)), make_batch([4, 2, 3])
    assert torch.autograd.gradcheck(lambda r: values(ranked, rankings, r), randoms((3, 4)).requires_grad_())


def test_bradley_terry_refuses_rankings():
    with pytest.raises(ValueError, match="2 responses a prompt, got 3"):
        values(Reward(RewardConfig()), make_batch([3]), randoms((1, 3)))


# ---- Plackett-Luce -----------------------------------------------------------------------------------


def test_ranking_worked_value():
    # Scores log 3, log 2, log 1: best with 3/6, then 2/3, then 1/1; so P = 1/3.
    found = values(RewardPL(RewardPLConfig()), make_batch([3]), tensor([[math.log(3), math.log(2), 0.0]]))
    assert found.item() == pytest.approx(math.log(3), rel=1e-12)


def test_tied_responses_are_no_pair():
    # Scores log 3, log 2, log 1, the last two tied: 3/6, then 2/3 and 1/3 of what is no better than they are.
    rewards, batch = tensor([[math.log(3), math.log(2), 0.0]]), make_batch([3], rank=[[0.0, 1.0, 1.0]])
    loss = RewardPL(RewardPLConfig()).loss(batch, Scores(rewards=rewards))
    assert loss.values.item() == pytest.approx(math.log(2 * 3 / 2 * 3), rel=1e-12)
    assert (loss.metrics["accuracy"].total, loss.metrics["accuracy"].items) == (2, 2)


@pytest.mark.parametrize("seed", range(4))
def test_rankings_by_loop(seed):
    present, c = [4, 2, 3, 1], 0.3
    rewards = randoms((4, 4), seed)
    loss = RewardPL(RewardPLConfig(centre_coefficient=c)).loss(make_batch(present), Scores(rewards=rewards))
    right = leads = pairs = 0
    for row, count in enumerate(present):
        scores = rewards[row, :count].numpy()
        nll = -sum(scores[k] - np.log(np.exp(scores[k:]).sum()) for k in range(count))
        assert loss.values[row].item() == pytest.approx(nll + c * (2 * scores.mean()) ** 2, rel=1e-11)
        for k in range(count):
            for worse in scores[k + 1 :]:
                right, leads, pairs = right + (scores[k] > worse), leads + scores[k] - worse, pairs + 1
    found = loss.metrics
    assert (found["accuracy"].total.item(), found["accuracy"].items.item()) == (right, pairs)
    assert found["margin"].total.item() == pytest.approx(leads, rel=1e-5)  # metrics are float32
    assert found["margin"].items.item() == pairs


@pytest.mark.parametrize("c", [0.0, 0.7])
def test_two_responses_are_bradley_terry(c):
    """The same value, gradient and metrics; sums in another order differ by 1e-16 or so."""
    batch, leaves, losses = make_batch([2] * 6), [], []
    for algorithm in (RewardPL(RewardPLConfig(c)), Reward(RewardConfig(centre_coefficient=c))):
        leaf = randoms((6, 2), 3).requires_grad_()
        loss = algorithm.loss(batch, Scores(rewards=leaf))
        loss.values.sum().backward()
        leaves.append(leaf.grad)
        losses.append(loss)
    torch.testing.assert_close(*[loss.values for loss in losses], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(*leaves, rtol=1e-13, atol=1e-15)
    assert losses[0].metrics == losses[1].metrics
    assert RewardPL.metrics == Reward.metrics


@pytest.mark.parametrize("junk", [NAN, float("inf"), 1e30])
def test_junk_behind_a_ranking_changes_nothing(junk):
    batch, found = make_batch([4, 2, 3]), []
    absent = ~batch.response_mask.any(-1)
    for fill in (0.0, junk):
        leaf = randoms((3, 4)).masked_fill(absent, fill).requires_grad_()
        loss = RewardPL(RewardPLConfig(0.3)).loss(batch, Scores(rewards=leaf))
        loss.values.sum().backward()
        found.append((loss, leaf.grad))
    (clean, slope), (dirty, dirty_slope) = found
    assert torch.equal(dirty.values, clean.values)
    assert torch.equal(dirty_slope, slope)
    assert (slope[absent] == 0).all()
    for name, mean in clean.metrics.items():
        assert torch.equal(dirty.metrics[name].total, mean.total), name
        assert torch.equal(dirty.metrics[name].items, mean.items), name


def test_order_of_the_batch_changes_nothing():
    order, rewards = torch.tensor([2, 0, 1]), randoms((3, 4))
    straight = values(RewardPL(RewardPLConfig(0.3)), make_batch([4, 2, 3]), rewards)
    turned = values(RewardPL(RewardPLConfig(0.3)), make_batch([3, 4, 2]), rewards[order])
    assert torch.equal(turned, straight[order])


# ---- direction and mutations -------------------------------------------------------------------------


def assert_prefers_better(algorithm):
    """A step down the gradient raises the best score and lowers the worst."""
    count = 2 if algorithm.needs.responses == "pair" else 4
    rewards = randoms((5, count)).requires_grad_()
    values(algorithm, make_batch([count] * 5), rewards).sum().backward()
    assert (rewards.grad[:, 0] < 0).all()
    assert (rewards.grad[:, -1] > 0).all()


@pytest.mark.parametrize("algorithm", [Reward(RewardConfig()), RewardPL(RewardPLConfig())])
def test_direction_and_its_mutations(monkeypatch, algorithm):
    assert_prefers_better(algorithm)
    cls, original = type(algorithm), type(algorithm).nll
    mutants = (
        lambda self, rewards, mask, labels: -original(self, rewards, mask, labels),
        lambda self, rewards, mask, labels: original(self, rewards.flip(1), mask, labels),
        lambda self, rewards, mask, labels: rewards.sum(1) * 0,
    )
    for mutant in mutants:
        monkeypatch.setattr(cls, "nll", mutant)
        with pytest.raises(AssertionError):
            assert_prefers_better(algorithm)
