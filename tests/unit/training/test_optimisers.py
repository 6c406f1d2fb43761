"""Optimisers by name, and roles that learn at a rate of their own."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from tiny import KilledError, dying_after, train

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.errors import UserError
from preflab.eval.conformance.workbench import make_roles
from preflab.method.configured import make_method
from preflab.settings import policy_gradient
from preflab.training import rehearsal
from preflab.training.rehearsal import rehearse

FREE = {"max_grad_norm": 0.0, "per_device_train_batch_size": 4, "adam_epsilon": 1e-12}


def tensors(tree):
    """Return the tensors of nested mappings."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [x for value in tree.values() for x in tensors(value)] if isinstance(tree, dict) else []


def ppo(**fields):
    return PPO(PPOConfig(rollout_prompts=4, rollout_epochs=1, **fields))


def moved(folder, algorithm=None, *, role="value", **options):
    """Return how far a role goes from where it starts, and the run's lines."""
    start = {name: [p.clone() for p in make_roles().parameters_of(name)] for name in (role,)}
    roles, _, lines = train(algorithm or ppo(), folder, **{**FREE, "max_steps": 1, **options})
    pairs = zip(roles.parameters_of(role), start[role], strict=True)
    return torch.cat([(now - before).flatten() for now, before in pairs]), lines


# ---- the value ---------------------------------------------------------------------------------------


def test_the_value_moves_by_its_own_rate_and_the_policy_by_the_other(tmp_path):
    usual, _ = moved(tmp_path / "usual")
    slow, _ = moved(tmp_path / "slow", ppo(value_learning_rate=1e-3))
    fast, _ = moved(tmp_path / "fast", ppo(value_learning_rate=1e-1))
    assert usual.abs().max() == pytest.approx(1e-2, rel=1e-3), "Adam's first step is the rate"
    assert slow.abs().max() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(fast, 100 * slow, rtol=1e-3, atol=1e-6)
    policies = [
        moved(tmp_path / f"policy-{rate}", ppo(value_learning_rate=rate), role="policy")[0] for rate in (0.0, 1)
    ]
    assert policies[0].abs().max() > 0
    assert torch.equal(*policies)


def test_the_coefficient_does_not_move_a_value_of_its_own(tmp_path):
    small, large = (moved(tmp_path / str(c), ppo(value_coefficient=c))[0] for c in (0.01, 1.0))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-6)


def test_both_rates_follow_the_schedule(tmp_path):
    _, lines = moved(tmp_path, ppo(value_learning_rate=0.0), max_steps=4, lr_scheduler_type="linear")
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def test_gradients_of_a_value_with_its_own_rate_are_clipped_apart(tmp_path):
    def steps(folder, **fields):
        # With plain gradient descent a step is the gradient: what a clip does to it can be seen.
        return moved(tmp_path / folder, ppo(**fields), role="policy", optim="sgd", max_grad_norm=1e-2, max_steps=1)[0]

    loud, quiet = steps("loud", value_coefficient=100.0), steps("quiet", value_coefficient=0.01)
    assert loud.norm() < 0.1 * quiet.norm(), "under one norm a large value loss takes the policy's step away"
    apart = [
        steps(f"apart-{c}", value_coefficient=c, value_learning_rate=1e-2, value_warmup_rollouts=0)
        for c in (100.0, 0.01)
    ]
    assert torch.equal(*apart)
    assert apart[0].norm() == pytest.approx(1e-2 * 1e-2, rel=1e-3)


def test_the_logged_norm_is_that_of_all_gradients(tmp_path):
    norms = [
        moved(tmp_path / str(rate), ppo(value_learning_rate=rate), max_grad_norm=1.0)[1][0]["grad_norm"]
        for rate in (None, 1e-3)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_what_has_no_effect_is_refused_or_said(caplog):
    with pytest.raises(UserError, match=r"ppo: value_learning_rate .*value_trunk: policy set value_coefficient"):
        make_method("ppo", {"value_trunk": "policy", "value_learning_rate": 1e-3})
    policy_gradient._say_idle_coefficient.cache_clear()
    with caplog.at_level(logging.WARNING):
        make_method("ppo", {"value_coefficient": 0.5, "value_trunk": "policy"})
        make_method("ppo", {"value_coefficient": 0.5, "optim": "sgd"})
        make_method("ppo", {"value_coefficient": 0.0})
        make_method("ppo")
        assert not caplog.records
        make_method("ppo", {"value_coefficient": 0.5})
        make_method("ppo", {"value_coefficient": 0.5})
    (said,) = (record.getMessage() for record in caplog.records)
    assert "set value_learning_rate" in said


def test_keys_stay_what_they_were():
    usual, other = make_method("ppo"), make_method("ppo", {"value_learning_rate": 1e-3, "optim": "sgd"})
    assert "value_learning_rate" not in usual.identity()["config"]
    assert "optim" not in usual.identity()["train"]
    assert other.identity()["config"]["value_learning_rate"] == 1e-3
    assert other.identity()["train"]["optim"] == "sgd"


# ---- by name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd", "adamw_8bit"])
def test_an_optimiser_by_name_learns(name, tmp_path):
    if name.endswith("8bit"):
        pytest.importorskip("bitsandbytes", reason="adamw_8bit is bitsandbytes'")
    step, _ = moved(tmp_path, DPO(DPOConfig()), role="policy", optim=name)
    assert step.abs().max() > 0


def test_an_eight_bit_optimiser_goes_on_where_it_stopped(tmp_path, monkeypatch):
    optimisers = pytest.importorskip("bitsandbytes", reason="adamw_8bit is bitsandbytes'").optim
    init = optimisers.AdamW.__init__

    def every_state_in_eight_bits(self, *args, **options):
        # The library leaves the states of small tensors, as all of these are, in 32 bits.
        init(self, *args, **{**options, "min_8bit_size": 1})

    monkeypatch.setattr(optimisers.AdamW, "__init__", every_state_in_eight_bits)
    options = {"optim": "adamw_8bit", "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2}
    whole, *_ = train(DPO(DPOConfig()), tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        train(DPO(DPOConfig()), tmp_path / "broken", wrap=dying_after(5), **options)
    kept = torch.load(tmp_path / "broken" / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
    assert {x.dtype for x in tensors(kept)} == {torch.uint8, torch.float32}, "and scales"
    again, record, _ = train(DPO(DPOConfig()), tmp_path / "broken", **options)
    assert record.steps == 6
    for a, b in zip(whole.parameters_of("policy"), again.parameters_of("policy"), strict=True):
        assert torch.equal(a, b)
    shutil.rmtree(tmp_path / "broken")
    usual, *_ = train(DPO(DPOConfig()), tmp_path / "broken", **{**options, "optim": "adamw_torch"})
    assert any(
        not torch.equal(a, b) for a, b in zip(whole.parameters_of("policy"), usual.parameters_of("policy"), strict=True)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": "adamm"}, "dpo: .*adamm"),
        ({"optim": "paged_adamw_8bit"}, "pages a GPU's memory, and there is none; take adamw_8bit"),
        ({"extra": {"optim": "sgd"}}, "optim"),
    ],
)
def test_optimisers_that_cannot_be_are_refused_at_once(values, message, monkeypatch):
    monkeypatch.setattr(rehearsal, "default_device", lambda: "cpu")
    with pytest.raises(UserError, match=message):
        rehearse(make_method("dpo", values))


def test_without_its_library_an_optimiser_is_refused_at_once(monkeypatch):
    from transformers import trainer_optimizer

    if not hasattr(trainer_optimizer, "is_bitsandbytes_available"):
        pytest.skip("this version of transformers asks elsewhere whether bitsandbytes is there")
    monkeypatch.setattr(trainer_optimizer, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match="bitsandbytes"):
        rehearse(make_method("dpo", {"optim": "adamw_8bit"}))
