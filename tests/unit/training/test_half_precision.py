"""On a base in half precision the first ratio of a rollout is 1, and policy and reference agree at the start."""

from __future__ import annotations

import pytest
import torch
from tiny import make_groups, train
from trained_methods import halved

from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.rloo import RLOO, RLOOConfig
from preflab.data.batches import collate
from preflab.eval.conformance.workbench import PAD, make_roles

SAMPLED = {"rollout_prompts": 8, "samples_per_prompt": 2, "rollout_epochs": 2}
METHODS = {"ppo": lambda: PPO(PPOConfig(**SAMPLED)), "rloo": lambda: RLOO(RLOOConfig(**SAMPLED))}


@pytest.mark.parametrize("name", METHODS)
def test_the_first_ratio_is_one_and_the_first_kl_is_zero(name, tmp_path):
    roles = halved(make_roles(torch.float32))
    changes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 8}
    _, _, lines = train(METHODS[name](), tmp_path, roles=roles, **changes)
    assert roles.scorer.exact == ("fused", "prompt_once", "plain")
    assert lines[0]["kl"] == 0.0
    for line in lines:
        assert (line["ratio"] == 1.0) == (line["step"] in (1, 5)), line


def test_an_adapter_that_does_nothing_is_the_reference_to_the_bit():
    roles = halved(make_roles(torch.float32, ("policy",)))
    with torch.no_grad():
        for name, parameter in roles.peft.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
        scores = roles(collate(make_groups(), PAD), ("policy", "reference"))
    assert torch.equal(scores.logps, scores.reference_logps)
