"""Policy gradients: directions, limits, closed forms, settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from rollouts import (
    IN_LOSS,
    LENGTHS,
    METHODS,
    NAN,
    WHOLE,
    gradients,
    make_rollout,
    methods,
    moved,
    name_of,
    randoms,
    two_token_rollout,
)

from preflab import PolicyGradient, PolicyGradientConfig
from preflab.algorithms.a2c import A2C, A2CConfig
from preflab.algorithms.grpo import GRPO, GRPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.reinforce import REINFORCE, REINFORCEConfig
from preflab.algorithms.reinforce_pp import REINFORCEPP, REINFORCEPPConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.method.advantages_and_ratios import clipped_surrogate, mean_of_others, whiten
from preflab.method.contract import Batch, Scores
from preflab.method.feedback import PolicyFeedback
from preflab.method.maths import moments

# ---- directions and their mutations ------------------------------------------------------------------


def assert_prefers_good_actions(algorithm):
    """At ratio 1, a step down the gradient must follow the sign of the advantages, token by token."""
    rollout = make_rollout()
    batch = algorithm.prepare(rollout)
    leaf = rollout.scores.logps.clone().requires_grad_()
    algorithm.loss(batch, Scores(logps=leaf, values=rollout.scores.values)).values.nan_to_num(0.0).sum().backward()
    mask, advantages = batch.response_mask, batch.feedback.advantages
    advantages = advantages if advantages.ndim == 3 else advantages.unsqueeze(-1)
    wanted = advantages.expand_as(mask)[mask]
    assert (wanted.abs() > 1e-3).all(), "no advantage to follow"
    assert (leaf.grad[mask].sign() == -wanted.sign()).all()


def assert_a_better_score_gains(algorithm):
    """A higher score for one response must raise its advantages above what they were."""
    rollout = make_rollout()
    better = rollout.scores.rewards.clone()
    better[0, 1] += 2.0
    before, after = (
        algorithm.prepare(given).feedback.advantages[0, 1].flatten()[:3]
        for given in (rollout, rollout._replace(scores=rollout.scores._replace(rewards=better)))
    )
    assert (after > before).all()


@methods
def test_directions_and_their_mutations(method, config, monkeypatch):
    algorithm = method(config(kl_coefficient=0.0, samples_per_prompt=3))
    loss, prepare = method.loss, method.prepare
    assert_prefers_good_actions(algorithm)
    assert_a_better_score_gains(algorithm)
    for sign in (-1, 0):
        with monkeypatch.context() as patch:

            def mutant_loss(self, batch, scores, sign=sign):
                found = loss(self, batch, scores)
                return found._replace(values=sign * found.values)

            patch.setattr(method, "loss", mutant_loss)
            with pytest.raises(AssertionError):
                assert_prefers_good_actions(algorithm)
        with monkeypatch.context() as patch:

            def mutant_prepare(self, rollout, sign=sign):
                batch = prepare(self, rollout)
                advantages = sign * batch.feedback.advantages
                return batch.replace(feedback=dataclasses.replace(batch.feedback, advantages=advantages))

            patch.setattr(method, "prepare", mutant_prepare)
            with pytest.raises(AssertionError):
                assert_a_better_score_gains(algorithm)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gae_lambda": 0.5, "gamma": 0.9, "whiten_advantages": False, "kl_coefficient": 0.7},
        {"loss_normalisation": "response", "value_coefficient": 2.0},
        IN_LOSS,
    ],
)
def test_ppo_at_ratio_one_is_a2c_exactly(fields):
    ppo, a2c = (gradients(m(c(**fields)), make_rollout()) for m, c in ((PPO, PPOConfig), (A2C, A2CConfig)))
    for ours, theirs in zip(ppo, a2c, strict=True):
        assert theirs.abs().max() > 0.01
        assert torch.equal(ours, theirs)
    moved_on = [gradients(m(c(**fields)), make_rollout(), moved(make_rollout())) for m, c in (METHODS[5], METHODS[4])]
    assert not torch.equal(moved_on[0][0], moved_on[1][0]), "away from ratio 1 the clip tells them apart"


def test_a2c_at_ratio_one_is_the_policy_gradient():
    rollout = make_rollout()
    algorithm = A2C(A2CConfig())
    gradient, _ = gradients(algorithm, rollout)
    mask = rollout.batch.response_mask
    advantages = algorithm.prepare(rollout).feedback.advantages
    # ∇(−A log π) = −A.
    torch.testing.assert_close(gradient[mask], -advantages[mask], rtol=0, atol=1e-14)


def test_rloo_of_two_is_its_closed_form():
    """L = −(R_1 − R_2) [log π(y_1) − log π(y_2)] / 2, the mean of two responses: A_1 = R_1 − R_2 = −A_2."""
    rollout = make_rollout(lengths=[[6, 3], [1, 5]])
    algorithm = RLOO(RLOOConfig(samples_per_prompt=2, kl_coefficient=0.3))
    returns = rollout.scores.rewards - 0.3 * (rollout.scores.logps - rollout.scores.reference_logps).sum(-1)
    difference = returns[:, :1] - returns[:, 1:]
    found = algorithm.prepare(rollout).feedback.advantages
    torch.testing.assert_close(found, torch.cat([difference, -difference], 1), rtol=1e-12, atol=1e-12)
    gradient, _ = gradients(algorithm, rollout)
    expected = -found.unsqueeze(-1).expand_as(gradient).masked_fill(~rollout.batch.response_mask, 0.0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_dr_grpo_is_rloo_but_for_its_length(k):
    """r_i − mean = (k−1)/k (r_i − mean of others), for the whole response alike."""
    rollout = make_rollout(lengths=LENGTHS[:, :k])
    shared = {"samples_per_prompt": k, "kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.3}
    rloo, _ = gradients(RLOO(RLOOConfig(**shared)), rollout)
    dr_grpo = GRPOConfig(scale_rewards="none", loss_normalisation="constant", loss_constant=4.0, **shared)
    grpo, _ = gradients(GRPO(dr_grpo), rollout)
    assert rloo.abs().max() > 0.01
    torch.testing.assert_close(4 * grpo, rloo * (k - 1) / k, rtol=1e-12, atol=1e-12)


def test_grpo_worked_value():
    # r = (1, 2, 6): mean 3, deviations (−2, −1, 3), unbiased variance 14 / 2 = 7.
    rollout = make_rollout(lengths=[[2, 1, 1]], width=2)
    rollout = rollout._replace(scores=rollout.scores._replace(rewards=torch.tensor([[1.0, 2.0, 6.0]]).double()))
    found = GRPO(GRPOConfig()).prepare(rollout).feedback.advantages
    assert found.flatten().tolist() == pytest.approx([x / (math.sqrt(7) + 1e-4) for x in (-2, -1, 3)], rel=1e-12)


@pytest.mark.parametrize("method", [GRPO, RLOO])
def test_equal_rewards_teach_nothing(method):
    rollout = make_rollout()
    rollout = rollout._replace(scores=rollout.scores._replace(rewards=torch.ones(2, 3).double()))
    found = method(method.Config(kl_coefficient=0.0)).prepare(rollout).feedback.advantages
    assert found.abs().max() < 1e-12


# ---- whitening and baselines -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "scale", "shift", "tolerance"),
    [
        # Scale-free up to ε: 1e-4 of a deviation of some 1, or 1e-8 of a variance.
        (GRPO(GRPOConfig(kl_in="reward", kl_estimator="k1", kl_coefficient=0.0)), 3.0, 5.0, 1e-3),
        (GRPO(GRPOConfig(scale_rewards="batch")), 3.0, 5.0, 1e-3),
        (GRPO(GRPOConfig(scale_rewards="none")), 1.0, 5.0, 1e-12),
        (RLOO(RLOOConfig(kl_coefficient=0.0)), 1.0, 5.0, 1e-12),
        (RLOO(RLOOConfig(kl_coefficient=0.0, whiten_advantages=True)), 3.0, 5.0, 1e-3),
        (REINFORCE(REINFORCEConfig(kl_coefficient=0.0)), 1.0, 5.0, 1e-12),
        (REINFORCEPP(REINFORCEPPConfig(kl_coefficient=0.0)), 3.0, 5.0, 1e-6),
    ],
    ids=lambda x: name_of((type(x), x.config)) if hasattr(x, "config") else None,
)
def test_scale_and_shift_of_the_scores_change_nothing(algorithm, scale, shift, tolerance):
    rollout = make_rollout()
    other = rollout._replace(scores=rollout.scores._replace(rewards=scale * rollout.scores.rewards + shift))
    found, expected = (algorithm.prepare(x).feedback.advantages for x in (other, rollout))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_moments_and_mean_of_others():
    x, mask = randoms((3, 5), 0), torch.tensor(np.random.default_rng(1).random((3, 5)) < 0.6)
    mean, variance = moments(x.masked_fill(~mask, NAN), mask)
    assert mean.item() == pytest.approx(x[mask].mean().item(), rel=1e-12)
    assert variance.item() == pytest.approx(x[mask].var().item(), rel=1e-12)
    white = whiten(x, mask)[mask]
    assert white.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert white.var().item() == pytest.approx(1.0, rel=1e-6)
    assert mean_of_others(torch.tensor([1.0, 2.0, 6.0])).tolist() == [4.0, 3.5, 1.5]


def test_moving_average_is_of_earlier_rollouts_alone():
    rollout = make_rollout()
    algorithm = REINFORCE(REINFORCEConfig(baseline="moving_average", baseline_decay=0.5, kl_coefficient=0.0))
    baselines = []
    for level in (1.0, 2.0, 5.0):
        scores = rollout.scores._replace(rewards=torch.full((2, 3), level).double())
        baselines.append(level - algorithm.prepare(rollout._replace(scores=scores)).feedback.advantages[0, 0].item())
    # Nothing yet; 1; weights 1/4 and 1/2 of 1 and 2, over their sum: 5/3.
    assert baselines == pytest.approx([0.0, 1.0, 5 / 3], rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.1, 2, 2.2), (1.6, 2, 2.8), (1.6, -2, -3.2), (0.5, 2, 1.0), (0.5, -2, -1.6), (0.9, -2, -1.8)],
)
def test_clip_ends_gain_on_either_side_by_its_own_range(ratio, advantage, expected):
    found = clipped_surrogate(torch.tensor(ratio), torch.tensor(float(advantage)), 0.2, 0.4)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    free = clipped_surrogate(torch.tensor(ratio), torch.tensor(float(advantage)))
    assert free.item() == pytest.approx(ratio * advantage, rel=1e-6)


# ---- missing ends, warm-up, trunk --------------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("fields", "cut"), [({}, 3.0), ({"missing_end_penalty": 1.25}, 1.75), ({"missing_end_score": -4.0}, -4.0)]
)
def test_missing_end(ended, fields, cut):
    algorithm = REINFORCE(REINFORCEConfig(baseline="none", kl_coefficient=0.0, **fields))
    found = algorithm.prepare(two_token_rollout(ended=ended)).feedback.advantages.item()
    assert found == (3.0 if ended else cut)


def test_truncated_response_is_worth_the_value_of_its_last_state():
    config = A2CConfig(kl_coefficient=0.0, gae_lambda=1.0, bootstrap_truncated=True, whiten_advantages=False)
    found = A2C(config).prepare(two_token_rollout(ended=False)).feedback
    assert found.returns.flatten().tolist() == [0.75, 0.75]
    assert found.advantages.flatten().tolist() == [0.25, 0.0]
    assert A2C(config).prepare(two_token_rollout()).feedback.returns.flatten().tolist() == [3.0, 3.0]


def test_value_warms_up_alone():
    rollout = make_rollout()
    algorithm = PPO(PPOConfig(value_warmup_rollouts=2))
    for number in range(1, 4):
        policy, value = gradients(algorithm, rollout)
        assert algorithm.state["rollouts"] == number
        assert (policy.abs().max() > 0) == (number == 3)
        assert value.abs().max() > 0


@methods
def test_needs_follow_the_config(method, config):
    assert method(config()).needs.joint is False
    if method in (A2C, PPO):
        assert method(config(value_trunk="policy")).needs == dataclasses.replace(method.needs, joint=True)
    if method not in WHOLE:
        units = {how: method(config(loss_normalisation=how)).needs.unit for how in ("token", "response", "constant")}
        assert units == {"token": "token", "response": "response", "constant": "response"}
    assert method.needs.unit == ("response" if method in WHOLE else "token")


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (PolicyGradientConfig, {"kl_in": "loss"}, "set kl_estimator to k2 or k3"),
        (PPOConfig, {"kl_in": "loss"}, "zero on average"),
        (PolicyGradientConfig, {"missing_end_penalty": 1.0, "missing_end_score": 0.0}, "set one of them"),
        (PolicyGradientConfig, {"kl_target": 1.0, "kl_coefficient": 0.0}, "kl_target"),
        (PolicyGradientConfig, {"clip_range_high": 0.3}, "needs a clip_range"),
        (GRPOConfig, {"samples_per_prompt": 1}, "group of 1 every advantage is 0"),
        (GRPOConfig, {"samples_per_prompt": 1, "scale_rewards": "none"}, "group of 1 every advantage is 0"),
        (GRPOConfig, {"kl_estimator": "k1"}, "zero on average"),
        (RLOOConfig, {"samples_per_prompt": 1}, "2 or more"),
        (REINFORCEPPConfig, {"baseline": "group"}, "2 or more"),
        (REINFORCEConfig, {"rollout_prompts": 1}, "2 or more"),
        (A2CConfig, {"bootstrap_truncated": True, "missing_end_score": 0.0}, "set one of them"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_a_method_of_ones_own_is_its_advantages():
    class Mine(PolicyGradient):
        Config = PolicyGradientConfig

        def advantages(self, rewards, rollout):
            return rewards - rewards.mean()

    rollout = make_rollout()
    algorithm = Mine(PolicyGradientConfig(kl_coefficient=0.0))
    found = algorithm.prepare(rollout).feedback.advantages
    assert torch.equal(found, rollout.scores.rewards - rollout.scores.rewards.mean())
    assert algorithm.loss(algorithm.prepare(rollout), moved(rollout)).values.shape == (2, 3)


def test_a_ratio_past_float32_stays_finite():
    rloo, mask = RLOO(RLOOConfig(clip_range=0.2)), torch.ones(1, 2, 4, dtype=torch.bool)
    batch = Batch(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.ones(mask.shape), mask)
    old, new = torch.full(mask.shape, -40.0), torch.zeros(mask.shape, requires_grad=True)
    feedback = PolicyFeedback(old, old, torch.zeros(1), torch.ones(1, 2), torch.tensor([[0.0, 1.0]]))
    loss = rloo.loss(batch.replace(feedback=feedback), Scores(new)).values.sum()
    loss.backward()
    assert loss.isfinite()
    assert new.grad.isfinite().all()
