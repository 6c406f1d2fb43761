"""Weights kept on the way: when, which, and what an interruption must not change."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny import KilledError, dying_after, train

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.model.adapter_config import WEIGHTS
from preflab.training.snapshots import shares, snapshots

MAKE = {
    "dpo": lambda: DPO(DPOConfig(beta=0.3)),
    "ppo": lambda: PPO(PPOConfig(rollout_prompts=4, samples_per_prompt=2, rollout_epochs=2)),  # two steps a rollout
}
OPTIONS = {"per_device_train_batch_size": 4, "max_steps": 8, "save_steps": 2}


def kept(folder):
    """Return the policy's weights by number and step."""
    return {(s.number, s.step): load_file(s.folder / "policy" / WEIGHTS) for s in snapshots(folder)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_shares_are_even_in_the_square_root_and_leave_out_the_ends():
    assert shares(3) == [1 / 16, 1 / 4, 9 / 16]
    assert shares(0) == []


@pytest.mark.parametrize("name", MAKE)
def test_a_snapshot_is_the_policy_after_so_many_steps_and_changes_nothing(name, tmp_path):
    roles, _, lines = train(MAKE[name](), tmp_path / "whole", snapshots=3, **OPTIONS)
    found = kept(tmp_path / "whole")
    assert list(found) == [(1, 1), (2, 2), (3, 5)]  # the first steps past 0.5, 2 and 4.5 of 8
    for (_, step), weights in found.items():
        shorter, _, _ = train(MAKE[name](), tmp_path / f"to {step}", **{**OPTIONS, "max_steps": step, "save_steps": 0})
        assert same(weights, {key: value.detach() for key, value in shorter.state("policy").items()})
    bare, _, others = train(MAKE[name](), tmp_path / "bare", **OPTIONS)
    assert same(roles.state("policy"), bare.state("policy"))
    assert [line["loss"] for line in lines] == [line["loss"] for line in others]
    assert not (tmp_path / "bare" / "snapshots").exists()


def test_of_shares_passed_in_one_step_the_last_is_kept_and_the_end_is_none(tmp_path):
    train(MAKE["dpo"](), tmp_path, snapshots=9, **{**OPTIONS, "max_steps": 3})
    assert list(kept(tmp_path)) == [(5, 1), (8, 2)]


@pytest.mark.parametrize(("name", "killed_at"), [("dpo", 1), ("dpo", 6), ("ppo", 5), ("ppo", 6)])
def test_an_interrupted_run_keeps_the_same_snapshots(name, killed_at, tmp_path):
    train(MAKE[name](), tmp_path / "whole", snapshots=4, **OPTIONS)

    with pytest.raises(KilledError):
        train(MAKE[name](), tmp_path / "broken", wrap=dying_after(killed_at), snapshots=4, **OPTIONS)
    (tmp_path / "broken" / "snapshots" / ".partial" / "policy").mkdir(parents=True)  # killed while writing one
    train(MAKE[name](), tmp_path / "broken", snapshots=4, **OPTIONS)
    whole, broken = kept(tmp_path / "whole"), kept(tmp_path / "broken")
    assert list(whole) == list(broken)
    assert len(whole) == 4
    assert all(same(whole[at], broken[at]) for at in whole)


SPOILT = {
    "flipped": lambda f: flip(f / "policy" / WEIGHTS),
    "cut": lambda f: os.truncate(f / "policy" / WEIGHTS, 99),
    "gone": shutil.rmtree,
    "renamed": lambda f: f.rename(f.with_name("3-step1")),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_snapshot_is_taken_again(tmp_path, caplog, name):
    """Step 2's snapshot is spoilt while the run lies still: it goes on from before that, not from step 6."""
    train(MAKE["dpo"](), tmp_path / "whole", snapshots=4, **OPTIONS)
    with pytest.raises(KilledError):
        train(MAKE["dpo"](), tmp_path / "broken", wrap=dying_after(7), snapshots=4, **OPTIONS)
    spoilt = next(s for s in snapshots(tmp_path / "broken") if s.step > 1)
    SPOILT[name](spoilt.folder)
    train(MAKE["dpo"](), tmp_path / "broken", snapshots=4, **OPTIONS)
    whole, broken = kept(tmp_path / "whole"), kept(tmp_path / "broken")
    assert list(whole) == list(broken)
    assert all(same(whole[at], broken[at]) for at in whole)
    assert all("passed over" in record.getMessage() for record in caplog.records)
    assert caplog.records


def test_what_was_kept_after_the_checkpoint_is_dropped(tmp_path):
    """Under a budget of seconds, a run that goes on may pass a share at another step than before it was killed."""
    stale = tmp_path / "snapshots" / "2-step7"
    stale.mkdir(parents=True)
    train(MAKE["dpo"](), tmp_path, snapshots=3, **OPTIONS)
    assert not stale.exists()
    assert list(kept(tmp_path)) == [(1, 1), (2, 2), (3, 5)]


def test_under_a_budget_shares_are_of_the_budget(tmp_path):
    _, record, lines = train(MAKE["dpo"](), tmp_path, snapshots=3, per_device_train_batch_size=4, budget=600.0)
    spent = {line["step"]: line["budget"] for line in lines}
    found = [snapshot.step for snapshot in snapshots(tmp_path)]
    assert found == [min(step for step in spent if spent[step] >= share) for share in shares(3)]
    assert found[-1] < record.steps
