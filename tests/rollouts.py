"""Policy gradients with their settings, and small ragged rollouts for them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from preflab.algorithms.a2c import A2C, A2CConfig
from preflab.algorithms.grpo import GRPO, GRPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.reinforce import REINFORCE, REINFORCEConfig
from preflab.algorithms.reinforce_pp import REINFORCEPP, REINFORCEPPConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.method.contract import Batch, Rollout, Scores, unit_mask

NAN = float("nan")
LENGTHS = np.array([[6, 3, 1], [1, 5, 4]])
SHAPE = (2, 3, 6)
METHODS = [
    (REINFORCE, REINFORCEConfig),
    (RLOO, RLOOConfig),
    (GRPO, GRPOConfig),
    (REINFORCEPP, REINFORCEPPConfig),
    (A2C, A2CConfig),
    (PPO, PPOConfig),
]
IN_LOSS = {"kl_in": "loss", "kl_estimator": "k3", "kl_coefficient": 0.3}
# Every branch of every method's prepare and loss; the loops below read the same fields.
CASES = [
    (REINFORCE, REINFORCEConfig(baseline="none", kl_coefficient=0.3)),
    (REINFORCE, REINFORCEConfig(baseline="batch", kl_coefficient=0.3, kl_estimator="k2")),
    (REINFORCE, REINFORCEConfig(baseline="moving_average", missing_end_score=-2.0)),
    (REINFORCE, REINFORCEConfig(clip_range=0.1, **IN_LOSS)),
    (RLOO, RLOOConfig(kl_coefficient=0.3)),
    (RLOO, RLOOConfig(kl_coefficient=0.3, clip_range=0.2, whiten_advantages=True, missing_end_penalty=1.5)),
    (RLOO, RLOOConfig(kl_in="loss", kl_estimator="k2", clip_range=0.1, clip_range_high=0.4)),
    (GRPO, GRPOConfig()),
    (GRPO, GRPOConfig(scale_rewards="batch", loss_normalisation="token", clip_range_high=0.28)),
    (GRPO, GRPOConfig(scale_rewards="none", loss_normalisation="constant", loss_constant=6.0, kl_estimator="k2")),
    (GRPO, GRPOConfig(kl_in="reward", kl_estimator="k3", clip_range=None)),
    (REINFORCEPP, REINFORCEPPConfig(kl_coefficient=0.3)),
    (REINFORCEPP, REINFORCEPPConfig(baseline="group", gamma=0.9, kl_estimator="k3", samples_per_prompt=3)),
    (A2C, A2CConfig(gamma=0.97, gae_lambda=0.8, kl_coefficient=0.3)),
    (A2C, A2CConfig(bootstrap_truncated=True, whiten_advantages=False, whiten_rewards=True)),
    (A2C, A2CConfig(value_warmup_rollouts=1, loss_normalisation="response", **IN_LOSS)),
    (PPO, PPOConfig(kl_coefficient=0.3, value_clip_range=0.3, value_coefficient=0.5)),
    (PPO, PPOConfig(clip_range_high=0.4, value_clip_range=None, missing_end_penalty=0.7, kl_target=2.0)),
    (PPO, PPOConfig(loss_normalisation="response", kl_in="loss", kl_estimator="k2", kl_target=2.0)),
]


def name_of(case):
    method, config = case
    changed = [
        f"{f.name}={getattr(config, f.name)}"
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(method.Config(), f.name)
    ]
    return "-".join([method.__name__, *changed])


cases = pytest.mark.parametrize(("method", "config"), CASES, ids=map(name_of, CASES))
methods = pytest.mark.parametrize(("method", "config"), METHODS, ids=[m.__name__ for m, _ in METHODS])


def randoms(shape, seed, scale=1.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * scale)


def make_batch(lengths=LENGTHS, width=6):
    lengths = torch.as_tensor(lengths)
    mask = torch.arange(width) < lengths[..., None]
    prompt = torch.full((len(lengths), 3), 5)
    return Batch(prompt, prompt > 0, torch.full(mask.shape, 7), mask)


def make_rollout(seed=0, junk=0.0, lengths=LENGTHS, width=6):
    batch = make_batch(lengths, width)
    shape = batch.response_mask.shape
    logps, reference, values = (
        (randoms(shape, seed + i) - offset).masked_fill(~batch.response_mask, junk)
        for i, offset in enumerate((2, 2, 0))
    )
    ended = torch.tensor(np.random.default_rng(seed + 9).random(shape[:2]) < 0.5)
    return Rollout(batch, Scores(logps, reference, values, randoms(shape[:2], seed + 3)), ended)


def moved(rollout, seed=50, junk=0.0):
    """Scores after some steps: ratios on both sides of the clips."""
    mask = rollout.batch.response_mask
    logps = (rollout.scores.logps + randoms(mask.shape, seed, 0.25)).masked_fill(~mask, junk)
    values = (rollout.scores.values + randoms(mask.shape, seed + 1, 0.5)).masked_fill(~mask, junk)
    return Scores(logps=logps, values=values)


WHOLE = (REINFORCE, RLOO)


def gradients(algorithm, rollout, scores=None):
    """Gradients of the summed loss in the log-probabilities and the values, where the rollout was drawn."""
    batch, scores = algorithm.prepare(rollout), scores or rollout.scores
    logps, values = scores.logps.clone().requires_grad_(), scores.values.clone().requires_grad_()
    losses = algorithm.loss(batch, Scores(logps=logps, values=values)).values
    losses.masked_fill(~unit_mask(batch, algorithm.needs.unit), 0.0).sum().backward()
    return logps.grad, values.grad


def two_token_rollout(score=3.0, ended=True):
    """Log-ratios to the reference of 1 and −2 nats; π and π_ref give (−1, −4) and (−2, −2)."""
    logps, reference = (torch.tensor([[row]], dtype=torch.float64) for row in ([-1.0, -4.0], [-2.0, -2.0]))
    rewards, values = torch.tensor([[score]]).double(), torch.tensor([[[0.5, 0.75]]]).double()
    return Rollout(make_batch([[2]], 2), Scores(logps, reference, values, rewards), torch.tensor([[ended]]))
