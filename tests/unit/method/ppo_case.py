"""PPO on a batch of ragged responses, and its loss by hand for one token."""

from __future__ import annotations

import math

import torch
from loss_cases import LENGTHS, SHAPE, make_batch, randoms

from preflab.algorithms.ppo import PPOConfig
from preflab.method.contract import Scores
from preflab.method.feedback import ActorCriticFeedback

EPSILON, VALUE_EPSILON, C = 0.2, 0.3, 0.5
CONFIG = PPOConfig(clip_range=EPSILON, value_clip_range=VALUE_EPSILON, value_coefficient=C)


def actor_critic_feedback(logps, values, advantages, returns, return_deviation):
    """Return the feedback of a rollout of the policy; its reference, which nothing reads, is the policy."""
    return ActorCriticFeedback(
        behaviour_logps=logps,
        reference_logps=logps,
        kl_coefficient=logps.new_zeros(len(logps)),
        importance_weights=torch.ones_like(logps),
        advantages=advantages,
        behaviour_values=values,
        returns=returns,
        return_deviation=return_deviation,
    )


def ppo_case(seed=0):
    """Return batch and scores with ratios and value moves on both sides of their clips."""
    others = (randoms(SHAPE, seed + i) for i in range(1, 5))
    feedback = actor_critic_feedback(randoms(SHAPE, seed) - 2, *others)
    batch = make_batch(LENGTHS, feedback=feedback)
    logps = feedback.behaviour_logps + randoms(SHAPE, seed + 5, 0.3)
    values = feedback.behaviour_values + randoms(SHAPE, seed + 6, 0.5)
    return batch, Scores(logps=logps, values=values)


def ppo_token_loss(new_logp, old_logp, advantage, value, old_value, target):
    """One token of arXiv 1707.06347 eq. 7 and 9, the values clipped as in OpenAI's baselines."""
    ratio = math.exp(new_logp - old_logp)
    surrogate = min(ratio * advantage, min(max(ratio, 1 - EPSILON), 1 + EPSILON) * advantage)
    clipped_value = old_value + min(max(value - old_value, -VALUE_EPSILON), VALUE_EPSILON)
    value_loss = 0.5 * max((value - target) ** 2, (clipped_value - target) ** 2)
    return -surrogate + C * value_loss


def token_arguments(batch, scores, index):
    feedback = batch.feedback
    return [
        float(x[index])
        for x in (
            scores.logps,
            feedback.behaviour_logps,
            feedback.advantages,
            scores.values,
            feedback.behaviour_values,
            feedback.returns,
        )
    ]
