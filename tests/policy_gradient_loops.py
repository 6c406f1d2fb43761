"""Rewards, advantages and losses of every policy gradient, one token at a time."""

from __future__ import annotations

import math

import numpy as np
from rollouts import SHAPE, WHOLE

from preflab.algorithms.grpo import GRPO
from preflab.algorithms.reinforce import REINFORCE
from preflab.algorithms.reinforce_pp import REINFORCEPP
from preflab.algorithms.rloo import RLOO


def k_estimate(name, log_ratio):
    return {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": math.exp(-log_ratio) - 1 + log_ratio}[name]


def responses(rollout):
    """Yield index, length, log-probabilities, reference's and values of each response, as lists."""
    lengths = rollout.batch.response_mask.sum(-1)
    for b, k in np.ndindex(*lengths.shape):
        n = int(lengths[b, k])
        yield (b, k), n, *([float(x) for x in field[b, k, :n]] for field in rollout.scores[:3])


def rewards_by_loop(method, config, rollout):
    """Reward of each token (in WHOLE, of the last token alone), as lists."""
    found = {}
    for index, n, logps, reference, values in responses(rollout):
        score, ended = float(rollout.scores.rewards[index]), bool(rollout.ended[index])
        if not ended:
            if config.missing_end_score is not None:
                score = config.missing_end_score
            score -= config.missing_end_penalty or 0.0
            if getattr(config, "bootstrap_truncated", False):
                score = values[-1]
        row = [0.0] * n
        row[-1] = score
        if config.kl_in == "reward" and method in WHOLE:
            row[-1] -= config.kl_coefficient * k_estimate(config.kl_estimator, sum(logps) - sum(reference))
        elif config.kl_in == "reward":
            pairs = zip(row, logps, reference, strict=True)
            row = [r - config.kl_coefficient * k_estimate(config.kl_estimator, a - b) for r, a, b in pairs]
        found[index] = row
    return found


def rescaled(rows, epsilon=1e-8, shift=True, keep_mean=False):
    flat = [x for row in rows.values() for x in row]
    mean, deviation = np.mean(flat), math.sqrt(np.var(flat, ddof=1) + epsilon)
    back = mean if keep_mean else 0.0
    return {index: [(x - mean) / deviation + back for x in row] for index, row in rows.items()}


def gae(rewards, values, gamma, lam):
    """The definition: A_t = Σ_l (γλ)^l (r_{t+l} + γ V_{t+l+1} − V_{t+l})."""
    n, values = len(rewards), [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]


def advantages_by_loop(method, config, rollout):
    """Advantage of each token, as lists, and the values' targets."""
    rewards = rewards_by_loop(method, config, rollout)
    totals = {index: sum(row) for index, row in rewards.items()}
    group = {b: [totals[b, k] for k in range(SHAPE[1])] for b in range(SHAPE[0])}
    if method is REINFORCE:
        everything = sum(totals.values())
        batch = {i: (everything - total) / (len(totals) - 1) for i, total in totals.items()}
        return {i: [t - (batch[i] if config.baseline == "batch" else 0.0)] for i, t in totals.items()}, None
    if method is RLOO:
        found = {(b, k): [r - np.mean(np.delete(group[b], k))] for b in group for k, r in enumerate(group[b])}
        if config.whiten_advantages:
            flat = [row[0] for row in found.values()]
            mean, deviation = np.mean(flat), np.std(flat, ddof=1)
            found = {i: [(row[0] - mean) / (deviation + 1e-4)] for i, row in found.items()}
        return found, None
    lengths = {index: len(row) for index, row in rewards.items()}
    if method is GRPO:
        everywhere = np.std(list(totals.values()), ddof=1)
        scale = {
            "none": lambda b: 1.0,
            "group": lambda b: np.std(group[b], ddof=1) + 1e-4,
            "batch": lambda b: everywhere + 1e-4,
        }[config.scale_rewards]
        return {
            (b, k): [(total - np.mean(group[b])) / scale(b)] * lengths[b, k] for (b, k), total in totals.items()
        }, None
    if method is REINFORCEPP:
        if config.baseline == "group":
            rewards = {(b, k): [*row[:-1], row[-1] - np.mean(group[b])] for (b, k), row in rewards.items()}
        returns = {
            i: [sum(config.gamma ** (s - t) * row[s] for s in range(t, len(row))) for t in range(len(row))]
            for i, row in rewards.items()
        }
        return rescaled(returns), None
    if config.whiten_rewards:
        rewards = rescaled(rewards, keep_mean=True)
    values = {index: list(row) for index, _, _, _, row in responses(rollout)}
    found = {i: gae(row, values[i], config.gamma, config.gae_lambda) for i, row in rewards.items()}
    targets = {i: [a + v for a, v in zip(row, values[i], strict=True)] for i, row in found.items()}
    if config.whiten_advantages:
        found = rescaled(found)
    if config.value_warmup_rollouts:
        found = {i: [0.0] * len(row) for i, row in found.items()}
    return found, targets


def surrogate(log_ratio, advantage, low, high):
    ratio = math.exp(log_ratio)
    if low is None:
        return -ratio * advantage
    high = low if high is None else high
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def losses_by_loop(method, config, rollout, scores):
    """Loss of each action, as lists."""
    advantages, targets = advantages_by_loop(method, config, rollout)
    beta = config.kl_coefficient if config.kl_in == "loss" else 0.0
    found = {}
    for index, n, old, reference, old_values in responses(rollout):
        new = [float(x) for x in scores.logps[index][:n]]
        if method in WHOLE:
            old, reference, new = [sum(old)], [sum(reference)], [sum(new)]
        found[index] = [
            surrogate(now - before, advantage, config.clip_range, config.clip_range_high)
            + beta * k_estimate(config.kl_estimator, now - fixed)
            for now, before, fixed, advantage in zip(new, old, reference, advantages[index], strict=True)
        ]
        if targets is None:
            continue
        for t, target in enumerate(targets[index]):
            value = float(scores.values[index][t])
            error = (value - target) ** 2
            width = getattr(config, "value_clip_range", None)
            if width is not None:
                clipped = old_values[t] + min(max(value - old_values[t], -width), width)
                error = max(error, (clipped - target) ** 2)
            found[index][t] += config.value_coefficient * error / 2
    return found
