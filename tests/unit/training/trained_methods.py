"""Methods of each kind, small, and whether two runs ended with the same weights."""

from __future__ import annotations

import torch

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.reward import Reward, RewardConfig
from preflab.algorithms.sft import SFT, SFTConfig
from preflab.eval.conformance.workbench import make_roles

# Adam divides by the gradient's own size, and so blows rounding up; float64 leaves room for that below 1e-6.
SAME = {"atol": 1e-6, "rtol": 0}


def dpo():
    return DPO(DPOConfig(beta=0.3))


def ppo(prompts=8, k=2, epochs=2, **fields):
    return PPO(PPOConfig(rollout_prompts=prompts, samples_per_prompt=k, rollout_epochs=epochs, **fields))


def assert_same_weights(one, other, *names):
    moved = 0.0
    start = make_roles(next(one.parameters()).dtype)
    for name in names:
        for mine, theirs, first in zip(*(r.parameters_of(name) for r in (one, other, start)), strict=True):
            torch.testing.assert_close(mine, theirs, **SAME)
            moved = max(moved, (mine - first).abs().max().item())
    assert moved > 1e-3, "training moved the weights"


def halved(roles, dtype=torch.bfloat16):
    """Put the base in half precision; adapters and heads stay as they are."""
    for name, parameter in roles.peft.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    return roles


METHODS = {
    "dpo": (dpo, ("policy",)),
    "sft": (lambda: SFT(SFTConfig()), ("policy",)),
    "reward": (lambda: Reward(RewardConfig()), ("reward",)),
    "ppo": (ppo, ("policy", "value")),
}
