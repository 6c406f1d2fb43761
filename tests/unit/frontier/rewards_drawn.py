"""Rewards whose oracle line is known."""

from __future__ import annotations

import numpy as np

from preflab.eval.frontier import Point, exact_oracle

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
SD = np.array([0.5, 1.0, 2.0])
MEANS = np.array([-1.0, 0.0, 3.0])


def normal_oracle():
    """Rewards N(MEANS, SD²), by quadrature: the line is mean(MEANS) + sqrt(2 k mean(SD²))."""
    logps = np.tile(np.log(WEIGHTS / WEIGHTS.sum()), (3, 1))
    return exact_oracle(logps, MEANS[:, None] + SD[:, None] * NODES)


def normal_samples(prompts, samples, seed=0):
    return np.random.default_rng(seed).normal(size=(prompts, samples))


def small_world(seed=0, prompts=4, responses=7):
    rng = np.random.default_rng(seed)
    logits, rewards = rng.normal(size=(2, prompts, responses))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), rewards


def tilted(b, oracle_of=20):
    """Twenty prompts of each kind: their line, means, KLs and gains of the policy tilted at b."""
    logps = np.tile(np.log(WEIGHTS / WEIGHTS.sum()), (3 * oracle_of, 1))
    means, sd = np.tile(MEANS, oracle_of), np.tile(SD, oracle_of)
    return exact_oracle(logps, means[:, None] + sd[:, None] * NODES), means, sd**2 / (2 * b**2), sd**2 / b


def curve(method, kls, law, seed=0, prompts=50, noise=0.0):
    rng = np.random.default_rng(seed)
    shape = (2, prompts)
    return [
        Point(method, {"k": k}, k + noise * rng.normal(size=shape), law(k) + noise * rng.normal(size=shape))
        for k in kls
    ]
