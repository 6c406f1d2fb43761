"""Offline data of the exact world, of every kind a method may ask for, drawn from the reference policy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from preflab.data.encoding import EncodedGroup
from preflab.eval.conformance.exact import Exact
from preflab.method.contract import Responses
from preflab.worlds.exact import draw, ordered

Labels = Literal["exact", "sampled"]

RANKED = 3
RULE_OF_THREE = 3.0


def training_groups(
    exact: Exact,
    responses: Responses,
    count: int,
    *,
    labels: Labels = "exact",
    noise: float = 0.0,
    seed: int = 0,
    coverage: float = 0.0,
) -> list[EncodedGroup]:
    """Return `count` groups, spread evenly over the prompts.

    - ``pair``: two responses of π_ref, ordered by a label drawn from Bradley-Terry on r. With exact labels
      its probability goes along as ``preference``, and the pairs fill π_ref × π_ref evenly. A share `noise`
      of the labels is then flipped.
    - ``ranking``: three responses of π_ref, ranked by Plackett-Luce on r.
    - ``single``: one response of each of such pairs, desirable if it is the preferred one.
    - ``demonstration``: responses of π* at β = 1.

    With `coverage`, so large a share of the responses is drawn evenly from all there are, in place of π_ref.
    """
    rng = np.random.default_rng([seed, 4])
    rewards, reference = exact.rewards.numpy(), drawn_from(exact, coverage)
    prompt = np.arange(count) % len(exact.groups)
    if responses == "demonstration":
        drawn = draw(exact.kl_optimum(1.0).numpy(), prompt, rng.random((1, count)))
        return _groups(exact, prompt, drawn)
    if responses == "ranking":
        drawn = draw(reference, prompt, rng.random((RANKED, count)))
        # The order of r + Gumbel noise is one drawn from Plackett-Luce.
        noisy = rewards[prompt, drawn] + rng.gumbel(size=drawn.shape)
        return _groups(exact, prompt, np.take_along_axis(drawn, (-noisy).argsort(0), 0))
    points = _even_points(count // len(exact.groups) + 1, rng).repeat(len(exact.groups), 1)[:, :count]
    drawn = draw(reference, prompt, points if labels == "exact" else rng.random((2, count)))
    pairs = ordered(prompt, drawn, rewards, rng)
    if responses == "single":
        desirable = rng.random(count) < 0.5
        return _groups(exact, prompt, np.where(desirable, pairs.chosen, pairs.rejected)[None], desirable=desirable)
    drawn = np.stack([pairs.chosen, pairs.rejected])
    if labels == "sampled":
        return _groups(exact, prompt, np.where(rng.random(count) < noise, drawn[::-1], drawn))
    chosen, rejected = rewards[prompt, drawn]
    preference = 1 / (1 + np.exp(rejected - chosen))
    return _groups(exact, prompt, drawn, preference=(1 - noise) * preference + noise * (1 - preference))


def drawn_from(exact: Exact, coverage: float) -> np.ndarray:
    """Return the log-probability ``[X, N]`` of each response among the data's: π_ref, with a share of all alike."""
    reference = exact.reference.numpy()
    if not coverage:
        return np.asarray(reference)
    return np.asarray(np.log((1 - coverage) * np.exp(reference) + coverage / reference.shape[1]))


def unseen(exact: Exact, logps: Tensor, coverage: float, responses: int) -> Tensor:
    """Return a policy's mass, ``[X]``, on responses of which fewer than three are expected among so many a prompt.

    What is seen in none of n draws has a probability below 3/n, at 95 % (the rule of three): there data say nothing.
    """
    few = torch.from_numpy(responses * np.exp(drawn_from(exact, coverage)) < RULE_OF_THREE)
    return (logps.exp() * few).sum(1)


def _even_points(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return points ``[2, count]`` that fill the unit square evenly: multiples of 1/ρ and 1/ρ², ρ³ = ρ + 1."""
    steps = np.array([[0.7548776662466927], [0.5698402909980532]])
    return (rng.random((2, 1)) + steps * np.arange(count)) % 1.0


def _groups(exact: Exact, prompt: np.ndarray, responses: np.ndarray, **feedback: np.ndarray) -> list[EncodedGroup]:
    """Return rows of prompts ``[M]`` and responses ``[K, M]`` by index, and of what is said of them ``[M]``."""
    said = [dict(zip(feedback, map(float, row), strict=True)) for row in zip(*feedback.values(), strict=True)]
    rows = zip(prompt.tolist(), responses.T.tolist(), said or [{}] * len(prompt), strict=True)
    wholes = exact.groups
    return [EncodedGroup(wholes[x].prompt_ids, [wholes[x].response_ids[i] for i in ids], x, fb) for x, ids, fb in rows]
