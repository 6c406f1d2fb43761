"""The loop: what is averaged over what, and what may change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny import make_groups, settings, train
from trained_methods import METHODS, assert_same_weights, dpo, halved, ppo

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.ppo import PPO
from preflab.algorithms.reward import Reward, RewardConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.algorithms.sft import SFT, SFTConfig
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.errors import UserError
from preflab.eval.conformance.workbench import BAD, END, GOOD, PAD, ROLES, VOCABULARY, counts_good, make_roles
from preflab.model.in_parts import score_in_parts
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.training.arguments import total_steps
from preflab.training.rollouts import ROLLOUT_METRICS, RolloutSource


@pytest.mark.parametrize("name", METHODS)
def test_eight_micro_batches_of_one_are_one_batch_of_eight(name, tmp_path):
    make, trained = METHODS[name]
    groups = make_groups(size=1) if name == "sft" else make_groups()
    whole, _, lines = train(make(), tmp_path / "whole", groups=groups, per_device_train_batch_size=8)
    parts, _, other = train(
        make(), tmp_path / "parts", groups=groups, per_device_train_batch_size=1, gradient_accumulation_steps=8
    )
    assert_same_weights(whole, parts, *trained)
    for one, two in zip(lines, other, strict=True):
        for metric in ("loss", "grad_norm", *make().metrics):
            assert one[metric] == pytest.approx(two[metric], rel=1e-4, abs=1e-5), metric  # float32 sums


def test_logged_loss_is_the_mean_over_tokens_of_the_whole_optimiser_batch(tmp_path):
    groups, algorithm = make_groups(6, size=1), SFT(SFTConfig())
    _, _, lines = train(
        algorithm,
        tmp_path,
        groups=groups,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        max_steps=1,
    )
    batch = collate(groups, PAD)
    with torch.no_grad():
        logps = make_roles()(batch, ("policy",)).logps
    mean = -(logps.sum() / batch.response_mask.sum()).item()
    assert lines[0]["loss"] == pytest.approx(mean, rel=1e-6)
    assert lines[0]["nll"] == pytest.approx(mean, rel=1e-6)
    per_response = -(logps.sum(-1) / batch.response_mask.sum(-1)).mean().item()
    assert abs(per_response - mean) > 1e-3, "another average would show"


class Padded:
    """A source whose batches carry junk columns on both sides."""

    def __init__(self, source):
        self.source, self.steps_per_epoch, self.sampled_tokens = source, source.steps_per_epoch, 0
        self.take_metrics, self.observe, self.moves = source.take_metrics, source.observe, source.moves
        self.fitting = source.fitting

    def batches(self, start_step):
        pad = torch.nn.functional.pad
        for batch in self.source.batches(start_step):
            yield batch.replace(
                prompt_ids=pad(batch.prompt_ids, (4, 0), value=9),
                prompt_mask=pad(batch.prompt_mask, (4, 0), value=False),
                response_ids=pad(batch.response_ids, (0, 3), value=9),
                response_mask=pad(batch.response_mask, (0, 3), value=False),
            )


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_padding_trains_nothing(name, tmp_path):
    make, trained = METHODS[name]
    bare, _, _ = train(make(), tmp_path / "bare", per_device_train_batch_size=4)
    wide, _, _ = train(make(), tmp_path / "wide", per_device_train_batch_size=4, wrap=Padded)
    assert_same_weights(bare, wide, *trained)


def test_gradient_checkpointing_trains_the_same(tmp_path):
    bare, _, _ = train(dpo(), tmp_path / "bare", per_device_train_batch_size=4)
    spared, _, _ = train(dpo(), tmp_path / "spared", per_device_train_batch_size=4, gradient_checkpointing=True)
    assert_same_weights(bare, spared, "policy")


def test_a_separable_loss_saves_a_pass_and_learns_the_same(tmp_path, monkeypatch):
    passes, score = [], Roles._score
    monkeypatch.setattr(Roles, "_score", lambda self, *args: passes.append(args[1]) or score(self, *args))
    runs, counts = [], []
    for separable in (True, False):
        passes.clear()
        algorithm = ppo()
        algorithm.needs = dataclasses.replace(algorithm.needs, separable=separable)
        runs.append(train(algorithm, tmp_path / str(separable), per_device_train_batch_size=4))
        counts.append(passes.count(("value",)))
    (one, first, _), (other, second, _) = runs
    assert_same_weights(one, other, "policy", "value")
    assert first.final == pytest.approx(second.final, rel=1e-6)
    assert counts[0] < counts[1]


def test_a_loss_of_the_wrong_shape_is_refused(tmp_path):
    class PerToken(DPO):
        def loss(self, batch, scores):
            return super().loss(batch, scores)._replace(values=scores.logps)

    with pytest.raises(UserError, match=r"PerToken.loss returned shape .* needs.unit is 'prompt'"):
        train(PerToken(DPOConfig()), tmp_path)


# ---- PPO ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "micro"), [(1, 4), (2, 4), (2, 1)])
def test_ratio_is_exactly_one_on_the_first_minibatch_of_each_rollout(k, micro, tmp_path):
    _, _, lines = train(
        ppo(prompts=8, k=k, epochs=2),
        tmp_path,
        roles=make_roles(torch.float32),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=4 // micro,
        max_steps=8,
    )
    assert len(lines) == 8
    for line in lines:
        first = line["step"] in (1, 5)
        assert (line["ratio"] == 1.0) == first, line
        assert (line["approx_kl"] == 0.0) == first, line
        assert line["clip_fraction"] == 0.0 or not first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rollout_of_one_step_is_scored_again_only_where_rounding_shows(dtype, tmp_path, monkeypatch):
    passes, score = [], Roles._score
    monkeypatch.setattr(
        Roles,
        "_score",
        lambda self, batch, group: (
            passes.append((group, torch.is_grad_enabled() and "policy" in group)) or score(self, batch, group)
        ),
    )

    def run(name):
        passes.clear()
        roles = halved(make_roles(torch.float32), dtype)
        algorithm = RLOO(RLOOConfig(rollout_prompts=8, samples_per_prompt=2))
        found = train(algorithm, tmp_path / name, roles=roles, per_device_train_batch_size=8, max_steps=4)
        return *found, passes.count((("policy",), False))

    roles, _, lines, scored = run("as it is")
    assert scored == (0 if dtype == torch.float32 else 4)
    assert all(line["ratio"] == pytest.approx(1.0, abs=1e-5) for line in lines)
    monkeypatch.setattr(
        RolloutSource,
        "_scored",
        lambda self, samples: score_in_parts(self.roles, samples.batch, self.needs.rollout, self.fitting.size),
    )
    again, _, other, scored = run("scored again")
    assert scored == 4
    for line, twin in zip(lines, other, strict=True):
        assert line["kl"] == pytest.approx(twin["kl"], abs=1e-5)
        assert line["entropy"] == pytest.approx(twin["entropy"], abs=1e-5)
    for mine, theirs in zip(roles.parameters_of("policy"), again.parameters_of("policy"), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_ppo_leaves_reward_reference_and_base_bit_identical(tmp_path):
    roles = make_roles()
    own = {id(p) for name in ("policy", "value") for p in roles.parameters_of(name)}
    before = {name: p.clone() for name, p in roles.state_dict().items()}
    batch = collate(make_groups(), PAD)
    with torch.no_grad():
        scored = roles(batch, ROLES)
    train(ppo(), tmp_path, roles=roles, per_device_train_batch_size=8)
    frozen = [name for name, p in roles.named_parameters(remove_duplicate=False) if id(p) not in own]
    moved = [name for name, p in roles.named_parameters() if id(p) in own and not torch.equal(p, before[name])]
    assert all(torch.equal(roles.state_dict()[name], before[name]) for name in frozen)
    assert {".policy.", ".value."} <= {f".{part}." for name in moved for part in name.split(".")}
    with torch.no_grad():
        after = roles(batch, ROLES)
    assert torch.equal(after.rewards, scored.rewards)
    assert torch.equal(after.reference_logps, scored.reference_logps)
    assert not torch.equal(after.logps, scored.logps)
    assert not torch.equal(after.values, scored.values)
    assert not any(p.requires_grad for p in roles.parameters())


def test_kl_is_zero_before_the_first_step(tmp_path):
    _, _, lines = train(ppo(prompts=4), tmp_path, per_device_train_batch_size=4, max_steps=4)
    assert lines[0]["kl"] == lines[0]["kl_k2"] == lines[0]["kl_k3"] == 0.0
    assert lines[2]["kl_k3"] > 0.0


def test_ppo_raises_a_reward_it_can_raise(tmp_path):
    roles = make_roles(torch.float32)
    roles.reward_function = counts_good
    algorithm = ppo(prompts=32, k=2, epochs=2, kl_coefficient=0.01)
    options = {"per_device_train_batch_size": 16, "max_steps": 64, "learning_rate": 2e-2}
    _, record, lines = train(algorithm, tmp_path, roles=roles, groups=make_groups(32), **options)
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert len(rewards) == 16
    assert abs(np.mean(rewards[:2])) < 0.5
    assert np.mean(rewards[-2:]) > 1.5
    assert record.sampled_tokens > 16 * 64


# ---- metrics -----------------------------------------------------------------------------------------


LIBRARY = {"step", "epoch", "loss", "grad_norm", "learning_rate"}


@pytest.mark.parametrize("name", METHODS)
def test_logged_names_are_those_declared(name, tmp_path):
    make, _ = METHODS[name]
    groups = make_groups(size=1) if name == "sft" else make_groups()
    _, record, lines = train(make(), tmp_path, groups=groups, per_device_train_batch_size=8, max_steps=2)
    rollout = set(ROLLOUT_METRICS) if name == "ppo" else set()
    assert set(lines[0]) - LIBRARY == set(make().metrics) | rollout
    assert set(make().metrics) <= set(record.final)
    assert record.steps == 2
    assert record.tokens > 0
    assert record.peak_memory_bytes > 0


def test_short_runs_report_metrics_too(tmp_path):
    _, record, lines = train(dpo(), tmp_path, per_device_train_batch_size=4, max_steps=2, logging_steps=10)
    assert len(lines) == 1
    assert set(DPO.metrics) <= set(record.final)


def test_metrics_are_averaged_since_the_last_line(tmp_path):
    _, _, each = train(dpo(), tmp_path / "each", per_device_train_batch_size=4, max_steps=4)
    _, _, every_other = train(dpo(), tmp_path / "other", per_device_train_batch_size=4, max_steps=4, logging_steps=2)
    for line, (one, two) in zip(every_other, (each[:2], each[2:]), strict=True):
        for name in ("loss", "margin"):
            assert line[name] == pytest.approx((one[name] + two[name]) / 2, rel=1e-5), name


# ---- what training reaches ---------------------------------------------------------------------------


def test_reward_model_learns_to_tell_good_from_bad(tmp_path):
    random = np.random.default_rng(0)

    def pairs(count):
        for i in range(count):
            prompt, rest = random.integers(5, VOCABULARY, 3).tolist(), random.integers(5, VOCABULARY, 3).tolist()
            yield EncodedGroup(prompt, [[*rest, GOOD, END], [*rest, BAD, END]], i)

    data = list(pairs(48))
    roles, _, lines = train(
        Reward(RewardConfig()),
        tmp_path,
        roles=make_roles(torch.float32),
        groups=data[:32],
        per_device_train_batch_size=16,
        max_steps=30,
    )
    with torch.no_grad():
        rewards = roles(collate(data[32:], PAD), ("reward",)).rewards
    assert (rewards[:, 0] > rewards[:, 1]).all(), "held-out pairs"
    assert lines[-1]["accuracy"] == 1.0
    assert lines[-1]["margin"] > 1.0


def test_dpo_moves_towards_chosen(tmp_path):
    _, _, lines = train(dpo(), tmp_path, per_device_train_batch_size=16, max_steps=10)
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-7)  # summed in float32
    assert lines[0]["margin"] == 0.0
    assert lines[-1]["loss"] < 0.5
    assert lines[-1]["accuracy"] == 1.0


def test_steps_are_those_asked_for_or_whole_epochs():
    algorithm, chosen = ppo(prompts=8, epochs=2), settings(per_device_train_batch_size=4, max_steps=7)
    prompts = [[3]] * 16
    source = RolloutSource(algorithm, PPO.needs, make_roles(), TransformersSampler(END, PAD, 2), prompts, chosen, 0)
    assert source.steps_per_rollout == 4
    assert total_steps(chosen, source) == 7
    epochs = settings(per_device_train_batch_size=4, max_steps=-1, num_train_epochs=1.5)
    assert total_steps(epochs, source) == 12  # two rollouts an epoch


# ---- numbers that are none ---------------------------------------------------------------------------


class Poisoned(DPO):
    """DPO whose loss is NaN from call number `at` on."""

    calls, at = 0, 3

    def loss(self, batch, scores):
        self.calls += 1
        loss = super().loss(batch, scores)
        return loss._replace(values=loss.values * float("nan")) if self.calls >= self.at else loss


@pytest.mark.parametrize(("logging_steps", "max_steps"), [(1, 5), (2, 3), (10, 5)])
def test_nan_is_a_users_error(logging_steps, max_steps, tmp_path):
    with pytest.raises(UserError, match="is nan at step"):
        train(
            Poisoned(DPOConfig()),
            tmp_path,
            per_device_train_batch_size=4,
            max_steps=max_steps,
            logging_steps=logging_steps,
        )


def test_unknown_extra_argument_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="not accepted"):
        train(dpo(), tmp_path, per_device_train_batch_size=4, extra={"no_such_argument": 1})
