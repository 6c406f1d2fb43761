"""Known optima: there the expected gradient of the method's own prepare and loss vanishes, by enumeration."""

from __future__ import annotations

import itertools
import math

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
from preflab.method.maths import kl_regularised_optimum
from preflab.method.stationary import group_standardised

END, LENGTH, WIDTH = 0, 3, 3  # tokens 0 to 2; a response ends with 0, or after 3 tokens


def every_response(prefix=()):
    for token in range(WIDTH):
        response = (*prefix, token)
        if token == END or len(response) == LENGTH:
            yield response
        else:
            yield from every_response(response)


RESPONSES = list(every_response())
STATES = sorted({r[:t] for r in RESPONSES for t in range(len(r))})
IDS = torch.tensor([r + (END,) * (LENGTH - len(r)) for r in RESPONSES])
MASK = torch.tensor([[t < len(r) for t in range(LENGTH)] for r in RESPONSES])
STATE = torch.tensor([[STATES.index(r[:t]) if t < len(r) else 0 for t in range(LENGTH)] for r in RESPONSES])
TREE = Batch(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool), IDS[None], MASK[None])


def token_logps(logits):
    """Log-probability of every token of every response, 0 on padding, under a table of logits by state."""
    return logits.log_softmax(-1)[STATE, IDS].masked_fill(~MASK, 0.0)


def world(seed=0):
    random = np.random.default_rng(seed)
    reference = token_logps(torch.tensor(random.normal(size=(len(STATES), WIDTH))))
    return Scores(reference_logps=reference[None], rewards=torch.tensor(random.normal(size=(1, len(RESPONSES)))))


def table(logps):
    """Return logits by state of a policy given as log π(y), ``[K]``."""
    rows = [[[r[: len(s) + 1] == (*s, token) for r in RESPONSES] for token in range(WIDTH)] for s in STATES]
    return logps.masked_fill(~torch.tensor(rows), float("-inf")).logsumexp(-1)


def exact_values(logps, scores, beta):
    """V of every state of every response: what is still to come of reward, less β times the log-ratio."""
    log_ratio = logps - scores.reference_logps[0]
    values = torch.zeros(len(STATES), dtype=torch.float64)
    for row, state in enumerate(STATES):
        t = len(state)
        here = torch.tensor([len(r) > t and r[:t] == state for r in RESPONSES])
        to_come = scores.rewards[0] - beta * log_ratio[:, t:].sum(-1)
        values[row] = (logps[:, t:].sum(-1).exp() * to_come)[here].sum()
    return values[STATE]


def expected_gradient(algorithm, scores, logps):
    """Largest entry of E[∇L] for a tabular policy, over all groups of responses it can draw."""
    config, k = algorithm.config, algorithm.config.samples_per_prompt
    logits = table(logps).requires_grad_()
    now = token_logps(logits)
    groups = torch.tensor(list(itertools.product(range(len(RESPONSES)), repeat=k)))
    values = exact_values(now.detach(), scores, config.kl_coefficient if config.kl_in == "reward" else 0.0)
    batch = Batch(*(x.expand(len(groups), 1) for x in TREE.tokens[:2]), IDS[groups], MASK[groups])
    drawn = Scores(now.detach()[groups], scores.reference_logps[0][groups], values[groups], scores.rewards[0][groups])
    batch = algorithm.prepare(Rollout(batch, drawn, torch.ones(groups.shape, dtype=torch.bool)))
    losses = algorithm.loss(batch, Scores(logps=now[groups], values=values[groups])).values
    losses = losses.masked_fill(~unit_mask(batch, algorithm.needs.unit), 0.0).flatten(1).sum(1) / k
    probability = now.detach().sum(-1)[groups].sum(-1).exp()
    (losses * probability).sum().backward()
    return logits.grad.abs().max().item()


def in_loss(estimator, **fields):
    return {"kl_in": "loss", "kl_estimator": estimator, "kl_coefficient": 0.4, **fields}


IN_REWARD = {"kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.4}
EXACT = [
    REINFORCE(REINFORCEConfig(baseline="none", **IN_REWARD)),
    REINFORCE(REINFORCEConfig(baseline="none", **in_loss("k2"))),
    REINFORCE(REINFORCEConfig(baseline="none", **in_loss("k3"))),
    RLOO(RLOOConfig(samples_per_prompt=2, **IN_REWARD)),
    RLOO(RLOOConfig(samples_per_prompt=3, clip_range=0.2, **in_loss("k2"))),
    RLOO(RLOOConfig(samples_per_prompt=2, **in_loss("k3"))),
    REINFORCEPP(REINFORCEPPConfig(**IN_REWARD)),
    A2C(A2CConfig(whiten_advantages=False, **IN_REWARD)),
    A2C(A2CConfig(whiten_advantages=False, gae_lambda=0.3, **in_loss("k2"))),
    PPO(PPOConfig(whiten_advantages=False, loss_normalisation="response", **IN_REWARD)),
    PPO(PPOConfig(whiten_advantages=False, loss_normalisation="constant", **in_loss("k3"))),
    GRPO(GRPOConfig(samples_per_prompt=3, **IN_REWARD)),
    *(
        GRPO(GRPOConfig(samples_per_prompt=k, scale_rewards="none", loss_normalisation=how, **in_loss(estimator)))
        for k, how, estimator in itertools.product((2, 3), ("token", "response", "constant"), ("k2", "k3"))
    ),
]
DRAWN = [
    GRPO(GRPOConfig(samples_per_prompt=k, loss_normalisation=how, **in_loss(estimator)))
    for k, how, estimator in itertools.product((2, 3), ("token", "response"), ("k2", "k3"))
]


def name_of(algorithm):
    config = algorithm.config
    parts = (config.kl_in, config.kl_estimator, f"k={config.samples_per_prompt}")
    more = (getattr(config, name, None) for name in ("loss_normalisation", "scale_rewards"))
    return "-".join([type(algorithm).__name__, *parts, *(x for x in more if x)])


@pytest.mark.parametrize("algorithm", EXACT, ids=name_of)
def test_expected_gradient_vanishes(algorithm):
    scores = world()
    optimum = algorithm.optimum(TREE, scores)
    assert optimum.shape == (1, len(RESPONSES))
    assert optimum.exp().sum().item() == pytest.approx(1.0, abs=1e-10)
    assert expected_gradient(algorithm, scores, optimum[0]) < 1e-10
    assert expected_gradient(algorithm, scores, scores.reference_logps[0].sum(-1)) > 0.05


@pytest.mark.parametrize("algorithm", DRAWN, ids=name_of)
def test_expected_gradient_vanishes_up_to_the_groups_drawn(algorithm):
    scores = world()
    optimum = algorithm.optimum(TREE, scores)
    assert expected_gradient(algorithm, scores, scores.reference_logps[0].sum(-1)) > 0.1
    assert expected_gradient(algorithm, scores, optimum[0]) < 1e-4


def test_gradient_vanishes_nowhere_else():
    """The neighbours' optima are not this one: the check above can fail."""
    scores = world()

    def grpo(estimator="k3", **fields):
        config = {"scale_rewards": "none", "loss_normalisation": "token", "samples_per_prompt": 2, **fields}
        return GRPO(GRPOConfig(**in_loss(estimator) | config))

    algorithm = grpo()
    others = [
        grpo("k2"),
        grpo(samples_per_prompt=3),
        grpo(loss_normalisation="response"),
        grpo(scale_rewards="group"),
        grpo(kl_coefficient=0.42),
        RLOO(RLOOConfig(**in_loss("k3"))),
        RLOO(RLOOConfig(**IN_REWARD)),
    ]
    for other in others:
        assert expected_gradient(algorithm, scores, other.optimum(TREE, scores)[0]) > 1e-3, name_of(other)


def test_batch_scaling_is_by_the_deviation_under_the_optimum():
    """Dividing advantages by σ is multiplying β by it."""
    scores = world()
    fields = {"scale_rewards": "batch", "loss_normalisation": "token", "samples_per_prompt": 4}
    found = GRPO(GRPOConfig(**in_loss("k3", **fields))).optimum(TREE, scores)
    probability, rewards = found.exp(), scores.rewards
    mean = (probability * rewards).sum()
    deviation = math.sqrt((probability * (rewards - mean) ** 2).sum())
    same = in_loss("k3", kl_coefficient=0.4 * (deviation + 1e-4), scale_rewards="none", loss_normalisation="token")
    expected = GRPO(GRPOConfig(samples_per_prompt=4, **same)).optimum(TREE, scores)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_k2_of_whole_responses_in_the_loss_is_the_kl_of_the_reward():
    scores = world()
    expected = kl_regularised_optimum(scores.reference_logps.sum(-1), scores.rewards, 0.4, MASK.any(-1)[None])
    for fields in (IN_REWARD, in_loss("k2")):
        found = RLOO(RLOOConfig(**fields)).optimum(TREE, scores)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_prompts_are_solved_apart_and_missing_responses_have_no_share():
    first, second = world(0), world(1)
    algorithm = GRPO(GRPOConfig(scale_rewards="none", **in_loss("k3")))
    alone = [algorithm.optimum(TREE, scores) for scores in (first, second)]
    prompts = [x.expand(2, 1) for x in TREE.tokens[:2]]
    order = torch.tensor(np.random.default_rng(0).permutation(len(RESPONSES)))
    reference = torch.stack([first.reference_logps[0], second.reference_logps[0][order]])
    rewards = torch.stack([first.rewards[0], second.rewards[0][order]])
    ids, mask = torch.stack([IDS, IDS[order]]), torch.stack([MASK, MASK[order]])

    def wider(x, fill):
        return torch.cat([x, torch.full_like(x[:, :2], fill)], 1)

    batch = Batch(*prompts, wider(ids, 1), wider(mask, False))
    scores = Scores(reference_logps=wider(reference, float("nan")), rewards=wider(rewards, float("nan")))
    found = algorithm.optimum(batch, scores)
    assert (found[:, -2:] == float("-inf")).all()
    torch.testing.assert_close(found[:1, :-2], alone[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[1:, :-2], alone[1][:, order], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "algorithm",
    [
        RLOO(RLOOConfig(kl_coefficient=0.0)),
        RLOO(RLOOConfig(kl_estimator="k2")),
        RLOO(RLOOConfig(kl_target=3.0)),
        RLOO(RLOOConfig(missing_end_score=0.0)),
        RLOO(RLOOConfig(reference_mixup=0.1)),
        RLOO(RLOOConfig(whiten_advantages=True, **in_loss("k2"))),
        REINFORCEPP(REINFORCEPPConfig(**in_loss("k2"))),
        REINFORCEPP(REINFORCEPPConfig(gamma=0.9)),
        A2C(A2CConfig(gamma=0.9)),
        A2C(A2CConfig(whiten_rewards=True)),
        A2C(A2CConfig(bootstrap_truncated=True)),
        PPO(PPOConfig(**in_loss("k2"))),
        PPO(PPOConfig(whiten_advantages=False, loss_normalisation="response", **in_loss("k2"))),
    ],
    ids=name_of,
)
def test_no_optimum_is_claimed_where_none_is_known(algorithm):
    assert algorithm.optimum(TREE, world()) is None


def test_group_standardised_limits():
    random = np.random.default_rng(3)
    rewards = torch.tensor(random.normal(size=(2, 7)))
    probabilities = torch.tensor(random.dirichlet(np.ones(7), size=2))
    # k = 2: a group's deviation is |r − r'| / √2, its mean half way.
    higher = rewards.unsqueeze(-1) > rewards.unsqueeze(-2)
    lower = rewards.unsqueeze(-1) < rewards.unsqueeze(-2)
    expected = ((higher.double() - lower.double()) @ probabilities.unsqueeze(-1)).squeeze(-1) / math.sqrt(2)
    torch.testing.assert_close(group_standardised(rewards, probabilities, 2, 1e-9), expected, rtol=0, atol=1e-3)
    mean = (probabilities * rewards).sum(-1, keepdim=True)
    deviation = (probabilities * (rewards - mean) ** 2).sum(-1, keepdim=True).sqrt()
    large = group_standardised(rewards, probabilities, 1000, 0.0)
    torch.testing.assert_close(large, (rewards - mean) / deviation, rtol=0, atol=0.02)
