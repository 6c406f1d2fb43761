"""What PPO makes of a rollout: rewards, advantages and returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import LENGTHS, NAN, SHAPE, make_batch, randoms, tokens

from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.method.contract import Rollout, Scores


def rollout_case(junk=None):
    batch = make_batch(LENGTHS)
    mask = batch.response_mask
    fields = [randoms(SHAPE, 20) - 2, randoms(SHAPE, 21) - 2, randoms(SHAPE, 22)]
    fill = 0.0 if junk is None else junk
    logps, reference, values = (x.masked_fill(~mask, fill) for x in fields)
    return Rollout(batch, Scores(logps, reference, values, randoms((2, 2), 23)), torch.ones(2, 2, dtype=torch.bool))


def prepare_by_loop(rollout, config):
    """Token rewards, GAE and whitening, response by response, in plain Python."""
    scores = [x.numpy() for x in rollout.scores]
    logps, reference, values, score = scores
    lengths = rollout.batch.response_mask.sum(-1).numpy()
    rewards = {}
    for b, k in np.ndindex(lengths.shape):
        for t in range(lengths[b, k]):
            kl = logps[b, k, t] - reference[b, k, t]
            last = score[b, k] if t == lengths[b, k] - 1 else 0.0
            rewards[b, k, t] = last - config.kl_coefficient * kl
    if config.whiten_rewards:
        every = list(rewards.values())
        mean, deviation = np.mean(every), np.sqrt(np.var(every, ddof=1) + 1e-8)
        rewards = {index: (reward - mean) / deviation + mean for index, reward in rewards.items()}
    advantages, returns = {}, {}
    for b, k in np.ndindex(lengths.shape):
        length, carried = lengths[b, k], 0.0
        for t in reversed(range(length)):
            following = values[b, k, t + 1] if t + 1 < length else 0.0
            carried = (
                rewards[b, k, t]
                + config.gamma * following
                - values[b, k, t]
                + config.gamma * config.gae_lambda * carried
            )
            advantages[b, k, t] = carried
            returns[b, k, t] = carried + values[b, k, t]
    if config.whiten_advantages:
        every = list(advantages.values())
        mean, deviation = np.mean(every), np.sqrt(np.var(every, ddof=1) + 1e-8)
        advantages = {index: (advantage - mean) / deviation for index, advantage in advantages.items()}
    return advantages, returns


@pytest.mark.parametrize("whiten_advantages", [True, False])
@pytest.mark.parametrize("whiten_rewards", [True, False])
def test_prepare_by_loop(whiten_advantages, whiten_rewards):
    config = PPOConfig(
        kl_coefficient=0.3,
        gamma=0.97,
        gae_lambda=0.8,
        whiten_advantages=whiten_advantages,
        whiten_rewards=whiten_rewards,
    )
    rollout = rollout_case()
    feedback = PPO(config).prepare(rollout).feedback
    advantages, returns = prepare_by_loop(rollout, config)
    for index in tokens(rollout.batch):
        assert feedback.advantages[index].item() == pytest.approx(advantages[index], rel=1e-10, abs=1e-10)
        assert feedback.returns[index].item() == pytest.approx(returns[index], rel=1e-10, abs=1e-10)
    mean = np.mean(list(returns.values()))
    for index in tokens(rollout.batch):
        assert feedback.return_deviation[index].item() == pytest.approx(returns[index] - mean, abs=1e-10)
    mask = rollout.batch.response_mask
    assert torch.equal(feedback.behaviour_logps[mask], rollout.scores.logps[mask])
    assert torch.equal(feedback.behaviour_values[mask], rollout.scores.values[mask])
    assert all((vars(feedback)[name][~mask] == 0).all() for name in ("advantages", "returns", "return_deviation"))


def test_prepare_worked_value():
    # Two tokens, β = .1, γ = λ = 1, V = 0. KL (1, −2): rewards (−.1, .2 + 3); returns (3.1, 3.2).
    batch = make_batch([[2]], width=2)
    scores = Scores(
        torch.tensor([[[-1.0, -4.0]]]), torch.tensor([[[-2.0, -2.0]]]), torch.zeros(1, 1, 2), torch.tensor([[3.0]])
    )
    config = PPOConfig(kl_coefficient=0.1, gae_lambda=1.0, whiten_advantages=False)
    feedback = PPO(config).prepare(Rollout(batch, scores, torch.tensor([[True]]))).feedback
    assert feedback.returns.flatten().tolist() == pytest.approx([3.1, 3.2], rel=1e-6)


def test_prepare_ignores_junk_under_the_mask():
    clean, dirty = rollout_case(), rollout_case(NAN)
    for config in (PPOConfig(), PPOConfig(whiten_rewards=True)):
        expected, found = PPO(config).prepare(clean).feedback, PPO(config).prepare(dirty).feedback
        for name in ("advantages", "returns", "return_deviation"):
            assert torch.equal(vars(found)[name], vars(expected)[name]), name
