"""The KL to the reference: of an action, in the loss, and its controller."""

from __future__ import annotations

import math

import pytest
import torch
from rollouts import IN_LOSS, gradients, make_rollout, moved, two_token_rollout

from preflab.algorithms.a2c import A2C, A2CConfig
from preflab.algorithms.grpo import GRPO, GRPOConfig
from preflab.algorithms.reinforce import REINFORCE, REINFORCEConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.method.advantages_and_ratios import adapted_kl_coefficient


@pytest.mark.parametrize(
    ("estimator", "tokens", "response"),
    [
        ("k1", [1.0, -2.0], -1.0),
        ("k2", [0.5, 2.0], 0.5),
        ("k3", [math.exp(-1), math.exp(2) - 3], math.exp(1) - 2),
    ],
)
def test_kl_of_an_action_worked(estimator, tokens, response):
    rollout = two_token_rollout()
    # In the reward, at β = .1: returns to go of tokens, and the whole response's.
    by_token = A2C(A2CConfig(kl_coefficient=0.1, kl_estimator=estimator, gae_lambda=1.0)).prepare(rollout)
    charged = [3.0 - 0.1 * sum(tokens), 3.0 - 0.1 * tokens[1]]
    assert by_token.feedback.returns.flatten().tolist() == pytest.approx(charged, rel=1e-12)
    whole = REINFORCE(REINFORCEConfig(baseline="none", kl_coefficient=0.1, kl_estimator=estimator))
    assert whole.prepare(rollout).feedback.advantages.item() == pytest.approx(3.0 - 0.1 * response, rel=1e-12)
    if estimator == "k1":
        return
    # In the loss, where −ρ A is −3, and 0 for the one response of a group.
    fields = {"kl_coefficient": 0.1, "kl_estimator": estimator, "kl_in": "loss"}
    whole = REINFORCE(REINFORCEConfig(baseline="none", **fields))
    loss = whole.loss(whole.prepare(rollout), rollout.scores).values
    assert loss.item() == pytest.approx(-3.0 + 0.1 * response, rel=1e-12)
    batch = GRPO(GRPOConfig(loss_normalisation="token", scale_rewards="none", **fields)).prepare(rollout)
    loss = GRPO(GRPOConfig(loss_normalisation="token", **fields)).loss(batch, rollout.scores).values
    assert loss.flatten().tolist() == pytest.approx([0.1 * x for x in tokens], rel=1e-12)


def test_kl_in_the_loss_pulls_towards_the_reference():
    """Without a reward the gradient has the sign of log π/π_ref: of each token, or of the response."""
    rollout = make_rollout()
    mask = rollout.batch.response_mask
    difference = rollout.scores.logps - rollout.scores.reference_logps
    rollout = rollout._replace(scores=rollout.scores._replace(rewards=torch.zeros(2, 3).double()))
    for algorithm in (GRPO(GRPOConfig(scale_rewards="none")), REINFORCE(REINFORCEConfig(baseline="none", **IN_LOSS))):
        gradient, _ = gradients(algorithm, rollout)
        pull = difference if algorithm.action == "token" else difference.sum(-1, keepdim=True).expand_as(difference)
        assert (gradient[mask].sign() == pull[mask].sign()).all()


def test_controller_worked_values():
    # Error clipped at ±.2, here by KL 6 and 0 for a target of 2; else KL/target − 1.
    for kl, expected in (
        (6.0, 0.1 * (1 + 0.2 * 64 / 256)),
        (0.0, 0.1 * (1 - 0.2 * 64 / 256)),
        (2.2, 0.1 * (1 + 0.1 / 4)),
    ):
        assert adapted_kl_coefficient(0.1, kl, 2.0, 256, 64) == pytest.approx(expected, rel=1e-12)
    assert adapted_kl_coefficient(0.1, 2.0, 2.0, 256, 64) == 0.1


@pytest.mark.parametrize("fields", [{}, {"kl_in": "loss", "kl_estimator": "k2"}])
def test_coefficient_adapts_after_its_use(fields):
    rollout = make_rollout()
    kl = (rollout.scores.logps - rollout.scores.reference_logps).sum(-1).mean().item()
    target = 3.0
    algorithm = RLOO(RLOOConfig(kl_coefficient=0.3, kl_target=target, kl_horizon=60, **fields))
    fixed = RLOO(RLOOConfig(kl_coefficient=0.3, **fields))
    batch, expected = algorithm.prepare(rollout), fixed.prepare(rollout)
    assert torch.equal(batch.feedback.advantages, expected.feedback.advantages)
    assert batch.feedback.kl_coefficient.tolist() == [0.3, 0.3]
    adapted = 0.3 * (1 + min(max(kl / target - 1, -0.2), 0.2) * 6 / 60)
    assert algorithm.state["kl_coefficient"] == pytest.approx(adapted, rel=1e-12)
    assert adapted != 0.3
    assert fixed.state["kl_coefficient"] == 0.3
    metric = algorithm.loss(batch, moved(rollout)).metrics["kl_coefficient"]
    assert metric.total.item() / metric.items.item() == pytest.approx(0.3)
    assert algorithm.prepare(rollout).feedback.kl_coefficient[0].item() == pytest.approx(adapted, rel=1e-12)
    # What a checkpoint puts back is what is used.
    algorithm.state = {"kl_coefficient": 7.0}
    assert algorithm.prepare(rollout).feedback.kl_coefficient.tolist() == [7.0, 7.0]


def test_the_controller_never_pushes_the_coefficient_past_zero():
    coefficient = 0.1
    for _ in range(50):
        coefficient = adapted_kl_coefficient(coefficient, 0.0, target=0.5, horizon=5.0, responses=128)
        assert 0 < coefficient <= 0.1
