"""PPO's loss: the paper's equation, its clips, its metrics, and its label direction."""

from __future__ import annotations

import math

import pytest
import torch
from loss_cases import make_batch, tokens
from ppo_case import CONFIG, EPSILON, C, actor_critic_feedback, ppo_case, ppo_token_loss, token_arguments

from preflab.algorithms.ppo import PPO
from preflab.method.contract import Scores


@pytest.mark.parametrize("seed", range(4))
def test_ppo_loss_and_gradient_are_the_papers(seed):
    batch, scores = ppo_case(seed)
    logps, values = scores.logps.clone().requires_grad_(), scores.values.clone().requires_grad_()
    loss = PPO(CONFIG).loss(batch, Scores(logps=logps, values=values)).values
    loss.masked_fill(~batch.response_mask, 0.0).sum().backward()
    step = 1e-6
    for index in tokens(batch):
        arguments = token_arguments(batch, scores, index)
        assert loss[index].item() == pytest.approx(ppo_token_loss(*arguments), rel=1e-11, abs=1e-11)
        for leaf, at in ((logps, 0), (values, 3)):
            up, down = list(arguments), list(arguments)
            up[at], down[at] = up[at] + step, down[at] - step
            slope = (ppo_token_loss(*up) - ppo_token_loss(*down)) / (2 * step)
            # Central differences: truncation ~1e-12, rounding ~1e-16/1e-6.
            assert leaf.grad[index].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert (logps.grad[~batch.response_mask] == 0).all()
    assert (values.grad[~batch.response_mask] == 0).all()


def ppo_single(new_logp, advantage, value=0.0, target=0.0, old_value=0.0):
    """Return loss value and gradients for one token whose behaviour log-probability is 0."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    feedback = actor_critic_feedback(one * 0, one * old_value, one * advantage, one * target, one * 0)
    logps, values = (one * new_logp).requires_grad_(), (one * value).requires_grad_()
    loss = PPO(CONFIG).loss(make_batch([[1]], 1, feedback), Scores(logps=logps, values=values))
    loss.values.sum().backward()
    clipped = loss.metrics["clip_fraction"].total.item()
    return loss.values.item(), logps.grad.item(), values.grad.item(), clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # L = −min(ρA, clip(ρ)A); dL/dlog π = −ρA where the unclipped term is the smaller, else 0.
        (1.1, 2.0, -2.2, -2.2),  # A > 0, inside
        (1.5, 2.0, -2.4, 0.0),  # A > 0, above: gain ends at 1.2 · 2
        (0.5, 2.0, -1.0, -1.0),  # A > 0, below: unclipped, must be able to come back
        (1.1, -2.0, 2.2, 2.2),  # A < 0, inside
        (1.5, -2.0, 3.0, 3.0),  # A < 0, above: unclipped
        (0.5, -2.0, 1.6, 0.0),  # A < 0, below: gain ends at .8 · 2
    ],
)
def test_ppo_clip_cases(ratio, advantage, loss, gradient):
    found, slope, _, clipped = ppo_single(math.log(ratio), advantage)
    assert found == pytest.approx(loss, rel=1e-12)
    assert slope == pytest.approx(gradient, abs=1e-12)
    assert clipped == (0.0 if ratio == 1.1 else 1.0)


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        # Old value 0, clip 0.3, c = .5: L = .25 max((V−R)², (V_clip−R)²); V_clip is constant outside the clip.
        (0.2, 1.0, 0.25 * 0.8**2, 0.5 * -0.8),  # inside
        (0.5, 1.0, 0.25 * 0.7**2, 0.0),  # too far up towards the target: no more pull
        (0.5, -1.0, 0.25 * 1.5**2, 0.5 * 1.5),  # too far up, away from the target: pulled back in full
        (-0.5, -1.0, 0.25 * 0.7**2, 0.0),  # too far down towards the target
        (-0.5, 1.0, 0.25 * 1.5**2, 0.5 * -1.5),  # too far down, away
    ],
)
def test_value_clip_cases(value, target, loss, gradient):
    found, _, slope, _ = ppo_single(0.0, 0.0, value, target)
    assert found == pytest.approx(loss, rel=1e-12)
    assert slope == pytest.approx(gradient, abs=1e-12)


def test_ppo_gradient_at_ratio_one_is_a2cs():
    batch, scores = ppo_case()
    leaf = batch.feedback.behaviour_logps.clone().requires_grad_()
    loss = PPO(CONFIG).loss(batch, Scores(logps=leaf, values=scores.values)).values
    loss.masked_fill(~batch.response_mask, 0.0).sum().backward()
    mask = batch.response_mask
    # ∇(−A log π) = −A.
    torch.testing.assert_close(leaf.grad[mask], -batch.feedback.advantages[mask], rtol=0, atol=1e-15)


def test_ppo_metrics_by_loop():
    batch, scores = ppo_case()
    metrics = PPO(CONFIG).loss(batch, scores).metrics
    rows = [token_arguments(batch, scores, index) for index in tokens(batch)]
    log_ratios = [row[0] - row[1] for row in rows]
    expected = {
        "ratio": sum(map(math.exp, log_ratios)),
        "clip_fraction": sum(abs(math.exp(u) - 1) > EPSILON for u in log_ratios),
        # k3 for samples of π_old: ρ − 1 − log ρ.
        "approx_kl": sum(math.exp(u) - 1 - u for u in log_ratios),
        "value_error": sum((row[3] - row[5]) ** 2 for row in rows),
        "return_variance": sum(float(batch.feedback.return_deviation[index]) ** 2 for index in tokens(batch)),
        "policy_loss": sum(ppo_token_loss(*row[:3], 0, 0, 0) for row in rows),
        "value_loss": sum(ppo_token_loss(0, 0, 0, *row[3:]) / C for row in rows),
    }
    assert set(metrics) == set(PPO.metrics)
    explained = metrics.pop("explained_variance")
    assert explained.items.item() == pytest.approx(expected["return_variance"], rel=1e-5)
    assert explained.total.item() == pytest.approx(expected["return_variance"] - expected["value_error"], rel=1e-5)
    for name, mean in metrics.items():
        assert mean.items.item() == len(rows), name
        assert mean.total.item() == pytest.approx(expected[name], rel=1e-5), name  # metrics are float32


def assert_ppo_prefers_good_tokens(algorithm):
    batch, scores = ppo_case()
    leaf = batch.feedback.behaviour_logps.clone().requires_grad_()
    values = scores.values.clone().requires_grad_()
    mask = batch.response_mask
    loss = algorithm.loss(batch, Scores(logps=leaf, values=values)).values
    loss.masked_fill(~mask, 0).sum().backward()
    assert (leaf.grad[mask].sign() == -batch.feedback.advantages[mask].sign()).all()
    pull = values.grad[mask] * (values - batch.feedback.returns)[mask]
    assert (pull >= 0).all()
    assert (pull > 0).any()


def test_ppo_direction_and_its_mutations(monkeypatch):
    assert_ppo_prefers_good_tokens(PPO(CONFIG))
    original = PPO.loss

    def mutant(change):
        def loss(self, batch, scores):
            result = original(self, batch, scores)
            return result._replace(values=change(result.values))

        return loss

    for change in (lambda v: -v, lambda v: v * 0):
        monkeypatch.setattr(PPO, "loss", mutant(change))
        with pytest.raises(AssertionError):
            assert_ppo_prefers_good_tokens(PPO(CONFIG))
