"""Responses that another engine drew: what is measured of the mismatch, and the weights that correct for it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import fake_vllm
import numpy as np
import pytest
import torch
from policy_gradient_loops import advantages_by_loop, responses, surrogate
from rollouts import CASES, NAN, WHOLE, make_rollout, moved, name_of, randoms
from sampled_model import END, LENGTH, PAD, open_roles
from tiny import make_groups, settings, train

from preflab.algorithms.expert_iteration import ExpertIteration, ExpertIterationConfig
from preflab.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.errors import UserError
from preflab.sampling.sampler import TransformersSampler
from preflab.sampling.vllm import VllmSampler
from preflab.settings.fields import build
from preflab.training.rollouts import (
    ENGINE_METRICS,
    ROLLOUT_METRICS,
    WEIGHT_METRICS,
    RolloutSource,
    rollout_metrics,
    weight_metrics,
)
from preflab.training.trainer import run_training

CAP = 1.2
cases = pytest.mark.parametrize(("method", "config"), CASES, ids=map(name_of, CASES))


def drawn_elsewhere(rollout, junk=0.0, scale=0.3, seed=70):
    """Return the rollout as another engine would have drawn it, and that engine's log-probabilities."""
    mask = rollout.batch.response_mask
    other = (rollout.scores.logps + randoms(mask.shape, seed, scale)).masked_fill(~mask, junk)
    return rollout._replace(sampler_logps=other), other


def weights_by_loop(method, rollout, other, cap):
    """Weight of each action, as lists."""
    found = {}
    for index, n, old, _, _ in responses(rollout):
        gaps = [before - float(drawn) for before, drawn in zip(old, other[index][:n], strict=True)]
        gaps = [sum(gaps)] if method in WHOLE else gaps
        found[index] = [min(math.exp(gap), cap) for gap in gaps]
    return found


def added_by_loop(method, config, rollout, scores, other):
    """What the weights add to the loss of each action: (w − 1) times its surrogate, whatever else is in the loss."""
    advantages, _ = advantages_by_loop(method, config, rollout)
    weights, found = weights_by_loop(method, rollout, other, config.importance_cap), {}
    for index, n, old, _, _ in responses(rollout):
        new = [float(x) for x in scores.logps[index][:n]]
        if method in WHOLE:
            old, new = [sum(old)], [sum(new)]
        rows = zip(weights[index], new, old, advantages[index], strict=True)
        found[index] = [
            (weight - 1) * surrogate(now - before, advantage, config.clip_range, config.clip_range_high)
            for weight, now, before, advantage in rows
        ]
    return found


def check_weighted_loss(method, config, junk=NAN):
    config = dataclasses.replace(config, importance_cap=CAP)
    rollout = make_rollout(junk=junk)
    elsewhere, other = drawn_elsewhere(rollout, junk)
    scores, algorithm = moved(rollout, junk=junk), method(config)
    plain = algorithm.loss(algorithm.prepare(rollout), scores).values
    found = method(config).loss(method(config).prepare(elsewhere), scores).values - plain
    seen = []
    for index, row in added_by_loop(method, config, rollout, scores, other).items():
        seen += row
        how = "token" if method in WHOLE else config.loss_normalisation
        if how == "response":
            row = [np.mean(row)]
        if how == "constant":
            row = [sum(row) / config.loss_constant]
        assert found[index].flatten().tolist()[: len(row)] == pytest.approx(row, rel=1e-9, abs=1e-9), index
    return seen


# ---- the weights -------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("junk", [NAN, float("inf")])
def test_weights_by_loop(method, config, junk):
    config = dataclasses.replace(config, importance_cap=CAP)
    rollout = make_rollout(junk=junk)
    elsewhere, other = drawn_elsewhere(rollout, junk)
    batch = method(config).prepare(elsewhere)
    found, cut, total = batch.feedback.importance_weights, 0, 0
    for index, row in weights_by_loop(method, rollout, other, CAP).items():
        assert found[index].flatten().tolist()[: len(row)] == pytest.approx(row, rel=1e-12)
        cut, total = cut + sum(w == CAP for w in row), total + len(row)
    assert 0 < cut < total
    (metric,) = weight_metrics(elsewhere, batch.feedback, config).values()
    assert (float(metric.total), float(metric.items)) == (cut, total)


@cases
def test_the_surrogate_is_weighted_and_nothing_else(method, config):
    added = check_weighted_loss(method, config)
    if not getattr(config, "value_warmup_rollouts", 0):
        assert max(map(abs, added)) > 1e-3


@pytest.mark.parametrize("mutant", [lambda x: -x, lambda x: 0 * x, lambda x: 2 * x, lambda x: x.exp()])
@pytest.mark.parametrize("case", [(RLOO, RLOOConfig(kl_coefficient=0.3)), (PPO, PPOConfig(kl_coefficient=0.3))])
def test_a_mutated_weight_is_found(case, mutant, monkeypatch):
    method, _ = case
    prepare = method.prepare

    def mutated(self, rollout):
        batch = prepare(self, rollout)
        weights = mutant(batch.feedback.importance_weights.log()).exp()
        return batch.replace(feedback=dataclasses.replace(batch.feedback, importance_weights=weights))

    monkeypatch.setattr(method, "prepare", mutated)
    with pytest.raises(AssertionError):
        check_weighted_loss(*case)


def test_an_engine_that_agrees_changes_nothing():
    rollout = make_rollout()
    algorithm, scores = PPO(PPOConfig()), moved(rollout)
    elsewhere, _ = drawn_elsewhere(rollout, scale=0.0)
    plain, same = (algorithm.loss(algorithm.prepare(x), scores).values for x in (rollout, elsewhere))
    assert torch.equal(plain, same)
    # With a cap of 1 nothing is weighted up.
    elsewhere, _ = drawn_elsewhere(rollout)
    weights = PPO(PPOConfig(importance_cap=1.0)).prepare(elsewhere).feedback.importance_weights
    assert float(weights.max()) == 1.0


def test_the_weights_carry_no_gradient_and_the_corrected_gradient_is_the_policys():
    """Uncut, E_engine[w A ∇log π] is E_π[A ∇log π]: summed over all responses of a world of one token."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    engine = (logits.detach() + 0.5 * torch.randn(5, generator=generator, dtype=torch.float64)).log_softmax(0)
    advantages = torch.randn(5, generator=generator, dtype=torch.float64)
    rollout = make_rollout(lengths=[[1] * 5], width=1)
    old = logits.detach().log_softmax(0).view(1, 5, 1)
    scores = rollout.scores._replace(logps=old, reference_logps=old)
    algorithm = RLOO(RLOOConfig(kl_coefficient=0.0, importance_cap=1e6, samples_per_prompt=5))
    prepared = algorithm.prepare(rollout._replace(scores=scores, sampler_logps=engine.view(1, 5, 1)))
    prepared = prepared.replace(feedback=dataclasses.replace(prepared.feedback, advantages=advantages.view(1, 5)))
    losses = algorithm.loss(prepared, scores._replace(logps=logits.log_softmax(0).view(1, 5, 1))).values
    (engine.exp() * losses[0]).sum().backward()
    pi = logits.detach().softmax(0)
    expected = -pi * (advantages - (pi * advantages).sum())
    torch.testing.assert_close(logits.grad, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("gap", [80.0, -80.0])
def test_a_weight_past_float32_stays_finite(gap):
    rollout = make_rollout()
    other = rollout.scores.logps.float() - gap
    scores = rollout.scores._replace(logps=rollout.scores.logps.float())
    elsewhere = rollout._replace(scores=scores, sampler_logps=other)
    weights = RLOO(RLOOConfig()).prepare(elsewhere).feedback.importance_weights
    assert weights.isfinite().all()
    assert float(weights.max()) == (2.0 if gap > 0 else pytest.approx(math.exp(-20)))


def test_the_cap_starts_at_one():
    with pytest.raises(UserError, match="importance_cap"):
        build(PPOConfig, {"importance_cap": 0.5}, "ppo")


# ---- what is measured --------------------------------------------------------------------------------


def test_mismatch_by_loop():
    rollout = make_rollout(junk=NAN)
    elsewhere, other = drawn_elsewhere(rollout, NAN)
    found = rollout_metrics(elsewhere)
    assert set(found) - set(rollout_metrics(rollout)) == set(ENGINE_METRICS)
    gaps = [
        float(other[index][t]) - old[t] for index, n, old, _, _ in responses(rollout) for t in range(n)
    ]  # log π_engine − log π
    expected = {
        "sampler_gap": np.mean(np.abs(gaps)),
        "sampler_kl": np.mean([math.exp(-u) - 1 + u for u in gaps]),
    }
    for name, value in expected.items():
        assert float(found[name].total / found[name].items) == pytest.approx(value, rel=1e-6), name  # float32


# ---- through the source ------------------------------------------------------------------------------


def on_policy_roles(folder):
    roles = open_roles(folder)
    roles.clone("policy", "reference")
    roles.reward_function = lambda batch: ((batch.response_ids == 3) & batch.response_mask).sum(-1).float()
    return roles


def open_source(folder, sampler, algorithm, micro=2):
    prompts = [[3, 4, 5, 3, 3], [5], [4, 4], [3, 5]]
    chosen = settings(per_device_train_batch_size=micro)
    return RolloutSource(algorithm, algorithm.needs, on_policy_roles(folder), sampler, prompts, chosen, seed=5)


def rloo(**fields):
    return RLOO(RLOOConfig(rollout_prompts=4, samples_per_prompt=4, rollout_epochs=2, **fields))


def own():
    return TransformersSampler(END, PAD, LENGTH)


@pytest.fixture
def vllm(folder, monkeypatch):
    fake_vllm.install(monkeypatch)
    return VllmSampler(str(folder), END, PAD, 8, LENGTH)


def test_the_source_hands_on_what_the_engine_says(folder, vllm):
    source = open_source(folder, vllm, rloo())
    batch = source.collect(0)
    # The stand-in runs in float32, as the scorer does: the weights are 1 but for rounding.
    torch.testing.assert_close(batch.feedback.importance_weights, torch.ones(4, 4), atol=1e-4, rtol=0)
    metrics = source.take_metrics()
    assert set(metrics) == {*ROLLOUT_METRICS, *ENGINE_METRICS, *WEIGHT_METRICS}
    assert 0 < float(metrics["sampler_gap"].total) < 1e-3
    assert float(metrics["importance_truncated"].total) == 0


@pytest.mark.parametrize(
    "algorithm",
    [
        OnlineDPO(OnlineDPOConfig(rollout_prompts=4)),
        ExpertIteration(ExpertIterationConfig(rollout_prompts=4)),
    ],
)
def test_methods_that_weigh_nothing_are_measured_all_the_same(folder, vllm, algorithm):
    source = open_source(folder, vllm, algorithm)
    assert "importance_weights" not in vars(source.collect(0).feedback)
    assert set(source.take_metrics()) == {*ROLLOUT_METRICS, *ENGINE_METRICS}


def test_the_ratio_of_the_first_minibatch_is_one_whoever_drew(folder, vllm):
    for sampler in (own(), vllm):
        source = open_source(folder, sampler, rloo())
        source.roles.learn(("policy",))
        for batch in itertools.islice(source.batches(0), 2):
            scores = source.roles(batch, ("policy",))
            assert torch.equal(scores.logps.detach(), batch.feedback.behaviour_logps)


def test_training_with_another_engine_learns_and_logs(folder, vllm, tmp_path):
    algorithm = rloo(kl_coefficient=0.0)
    source = open_source(folder, vllm, algorithm, micro=4)
    chosen = settings(per_device_train_batch_size=4, max_steps=16, learning_rate=3e-2)
    run_training(source.roles, algorithm, source, chosen, tmp_path, seed=3, title="test")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {*ENGINE_METRICS, *WEIGHT_METRICS} <= set(lines[0])
    assert lines[0]["ratio"] == 1.0
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.5
    assert len(fake_vllm.LLM.made[0].calls) == 8
    assert all(line["sampler_gap"] < 1e-3 for line in lines if "sampler_gap" in line), (
        "the weights of now were drawn from"
    )


# ---- our own sampler ---------------------------------------------------------------------------------


def test_our_own_sampler_knows_nothing_of_weights(folder):
    source = open_source(folder, own(), rloo())
    assert (source.collect(0).feedback.importance_weights == 1).all()
    assert set(source.take_metrics()) == set(ROLLOUT_METRICS)


def test_with_our_own_sampler_the_cap_changes_no_bit(tmp_path):
    """Nor does the code for other engines: the loss is the one of before, operation by operation."""
    runs = [
        train(PPO(PPOConfig(rollout_prompts=8, importance_cap=cap)), tmp_path / str(cap), groups=make_groups(8),
              per_device_train_batch_size=4)
        for cap in (1.0, 2.0)
    ]  # fmt: skip
    (one, _, lines), (other, _, others) = runs
    for role in ("policy", "value"):
        assert all(torch.equal(x, y) for x, y in zip(one.state(role).values(), other.state(role).values(), strict=True))
    losses = [[line["loss"] for line in found] for found in (lines, others)]
    assert losses[0] == losses[1]
    rollout = make_rollout()
    plain = PPO(PPOConfig()).prepare(rollout)
    assert (plain.feedback.importance_weights == 1).all()
    assert weight_metrics(rollout, plain.feedback, PPOConfig()) == {}
