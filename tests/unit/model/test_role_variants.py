"""Roles played otherwise: ensembles and functions as reward, the value on the policy's trunk, a moving reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import make_groups, train

from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.data.batches import collate
from preflab.eval.conformance.workbench import PAD, make_roles
from preflab.method.contract import unit_mask


def batch_of(count=4, seed=0):
    return collate(make_groups(count, seed), PAD)


def save_members(folder, count=3):
    """Save reward models that differ, each normalised in its own way."""
    expected, batch = [], batch_of()
    for number in range(count):
        roles = make_roles(torch.float32)
        with torch.no_grad():
            for parameter in roles.parameters_of("reward"):
                parameter.mul_(1 + number)
        roles.head("reward").mean.fill_(0.1 * number)
        roles.head("reward").std.fill_(2.0 + number)
        roles.save("reward", folder / str(number))
        with torch.no_grad():
            expected.append(roles(batch, ("reward",)).rewards)
    return [folder / str(number) for number in range(count)], torch.stack(expected)


# ---- reward ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "pooled"), [("mean", lambda x: x.mean(0)), ("worst", lambda x: x.min(0).values)])
def test_an_ensemble_pools_normalised_scores(pool, pooled, tmp_path):
    folders, expected = save_members(tmp_path)
    roles = make_roles(torch.float32, ("policy", "reward"))
    roles.start_rewards(folders, pool)
    roles.learn(("policy",))
    rewards = roles(batch_of(), ("reward",)).rewards
    torch.testing.assert_close(rewards, pooled(expected), atol=1e-6, rtol=1e-5)
    assert expected.std(0).min() > 1e-3, "the members differ"
    assert not rewards.requires_grad


def test_one_reward_model_takes_an_ensembles_place(tmp_path):
    folders, expected = save_members(tmp_path)
    roles = make_roles(torch.float32, ("policy", "reward"))
    roles.start_rewards(folders)
    roles.start_rewards(folders[1:2])
    with torch.no_grad():
        torch.testing.assert_close(roles(batch_of(), ("reward",)).rewards, expected[1], atol=1e-6, rtol=1e-5)


def test_a_reward_function_plays_the_role(tmp_path):
    roles = make_roles(torch.float32, ("policy",))
    assert not roles.gives_rewards
    roles.reward_function = lambda batch: batch.response_mask.sum(-1).float()
    assert roles.gives_rewards
    batch = batch_of()
    assert torch.equal(roles(batch, ("reward",)).rewards, batch.response_mask.sum(-1).float())
    folders, expected = save_members(tmp_path, 1)
    roles.start_rewards(folders)
    with torch.no_grad():
        torch.testing.assert_close(roles(batch, ("reward",)).rewards, expected[0], atol=1e-6, rtol=1e-5)


# ---- value on the policy's trunk ---------------------------------------------------------------------


def joint_ppo(**fields):
    algorithm = PPO(PPOConfig(rollout_prompts=8, samples_per_prompt=2, rollout_epochs=2, **fields))
    algorithm.needs = dataclasses.replace(PPO.needs, joint=True)
    return algorithm


def joint_roles():
    roles = make_roles(names=("policy", "reward", "reference"))
    roles.join_value()
    return roles.to(torch.float64)


def test_joint_values_read_the_policys_states_in_one_pass(monkeypatch):
    roles, batch = joint_roles(), batch_of()
    assert not roles.has("value")
    assert roles.passes(("policy", "reward", "value")) == [("policy", "value"), ("reward",)]
    apart_logps, apart_values = roles(batch, ("policy",)).logps, roles(batch, ("value",)).values
    with roles.active("policy"):
        states = roles.scorer.states(batch)
    expected = torch.zeros(batch.response_mask.shape, dtype=torch.float64)
    expected[batch.response_mask] = roles.head("value")(states)
    calls, real = [], roles.scorer.states
    monkeypatch.setattr(roles.scorer, "states", lambda *args, **names: calls.append(1) or real(*args, **names))
    scores = roles(batch, ("policy", "value"))
    assert len(calls) == 1
    for one, two in ((scores.logps, apart_logps), (scores.values, apart_values), (scores.values, expected)):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)  # the norms are float32
    torch.testing.assert_close(roles.head("value").linear.weight, roles.head("reward").linear.weight, atol=1e-6, rtol=0)


def test_joint_gradient_is_the_sum_of_both_losses():
    roles, batch = joint_roles(), batch_of()
    roles.learn(("policy", "value"))
    policy = roles.parameters_of("policy")

    def gradients(loss):
        return [g.clone() for g in torch.autograd.grad(loss, policy)]

    both = roles(batch, ("policy", "value"))
    together = gradients(both.logps.sum() + (both.values**2).sum())
    alone = gradients(roles(batch, ("policy",)).logps.sum()), gradients((roles(batch, ("value",)).values ** 2).sum())
    for whole, one, two in zip(together, *alone, strict=True):
        torch.testing.assert_close(whole, one + two, atol=1e-5, rtol=1e-3)
    assert any(g.abs().max() > 1e-6 for g in alone[1]), "the value's loss reaches the trunk"


def test_joint_training_resumes_and_saves(tmp_path):
    options = {"per_device_train_batch_size": 4, "max_steps": 8, "save_steps": 4}
    whole, record, lines = train(joint_ppo(), tmp_path / "whole", roles=joint_roles(), **options)
    assert record.steps == 8
    assert lines[0]["ratio"] == pytest.approx(1.0, abs=1e-12)
    for role in ("policy", "value"):
        whole.save(role, tmp_path / role)
    again = joint_roles()
    for role in ("policy", "value"):
        again.start(role, tmp_path / role)
    batch = batch_of()
    with torch.no_grad():
        one, two = whole(batch, ("policy", "value")), again(batch, ("policy", "value"))
    torch.testing.assert_close(one.values, two.values)
    torch.testing.assert_close(one.logps, two.logps)
    moved = whole.head("value").linear.weight - joint_roles().head("value").linear.weight
    assert moved.abs().max() > 1e-4


# ---- a reference that moves --------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_blending_moves_matrices_a_share_of_the_way(share):
    roles = make_roles()
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.add_(1.0)
    before = [p.clone() for p in roles.parameters_of("reference")]
    roles.blend("policy", "reference", share)
    for old, new, goal in zip(before, roles.parameters_of("reference"), roles.parameters_of("policy"), strict=True):
        torch.testing.assert_close(new, (1 - share) * old + share * goal)


def moving_ppo():
    return PPO(PPOConfig(rollout_prompts=4, rollout_epochs=2, reference_mixup=1.0, reference_sync=2))


def test_the_reference_follows_the_policy_between_rollouts_only(tmp_path):
    options = {"per_device_train_batch_size": 4, "max_steps": 6}
    roles, _, lines = train(moving_ppo(), tmp_path, **options)  # rollouts at steps 1, 3 and 5
    assert lines[0]["kl_k3"] == 0.0
    assert lines[2]["kl_k3"] > 0.0, "one rollout later the reference is still where it was"
    assert lines[4]["kl_k3"] == 0.0, "two rollouts later it was moved to the policy"
    start = make_roles().parameters_of("reference")
    assert any(not torch.equal(a, b) for a, b in zip(start, roles.parameters_of("reference"), strict=True))


# ---- stopping a rollout early ------------------------------------------------------------------------


def test_a_rollout_stops_past_its_kl_and_the_next_one_goes_on(tmp_path):
    fields = {"rollout_prompts": 4, "rollout_epochs": 4}
    options = {"per_device_train_batch_size": 4, "max_steps": 8, "learning_rate": 5e-2}
    _, _, free = train(PPO(PPOConfig(**fields)), tmp_path / "free", **options)
    assert free[0]["approx_kl"] == pytest.approx(0.0, abs=1e-12)
    assert free[1]["approx_kl"] > 1e-6
    _, _, lines = train(PPO(PPOConfig(**fields, stop_kl=1e-9)), tmp_path / "stopped", **options)
    learnt = ["policy_loss" in line for line in lines]
    assert learnt == [True, True, False, False, True, True, False, False]
    assert [line["loss"] for line in lines if "policy_loss" not in line] == [0.0] * 4


def test_a_step_without_anything_to_learn_from_moves_nothing(tmp_path):
    class Emptied:
        def __init__(self, source):
            self.source, self.steps_per_epoch, self.sampled_tokens = source, source.steps_per_epoch, 0
            self.take_metrics, self.observe, self.moves = source.take_metrics, source.observe, source.moves
            self.fitting = source.fitting

        def batches(self, start_step):
            for number, batch in enumerate(self.source.batches(start_step)):
                yield batch if number == 0 else batch.emptied()

    options = {"per_device_train_batch_size": 4, "weight_decay": 0.1}
    algorithm = PPO(PPOConfig(rollout_prompts=4, rollout_epochs=1))
    one, _, _ = train(algorithm, tmp_path / "one", max_steps=1, **options)
    more, _, _ = train(algorithm, tmp_path / "more", max_steps=4, wrap=Emptied, **options)
    for role in ("policy", "value"):
        for a, b in zip(one.parameters_of(role), more.parameters_of(role), strict=True):
            assert torch.equal(a, b), "momentum and weight decay stand still too"
    assert not unit_mask(batch_of().emptied(), "prompt").any()
