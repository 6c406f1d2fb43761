"""Gradient checkpointing recomputes after `Roles.active` has ended; the gradients must not notice."""

import pytest
import torch

from preflab.method.contract import Batch
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings


def gradients(path, *, recompute, k):
    settings = LoraSettings(lora_rank=4, lora_alpha=8, dtype="float32")
    roles = Roles(load_base(str(path), settings, device="cpu"), settings, ("policy", "value"), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in roles.named_parameters():
            if "lora_B" in name:  # zero at first: every gradient of A would be zero too
                parameter.normal_(std=0.1, generator=generator)
    parameters = roles.learn(("policy", "value"))
    roles.checkpoint_activations(recompute)
    ids = torch.randint(4, 12, (2, k, 6), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 0, 4:] = False
    prompt = torch.randint(4, 12, (2, 7), generator=generator)
    batch = Batch(prompt, torch.ones_like(prompt, dtype=torch.bool), ids, mask)
    scores = roles(batch, ("policy", "value"))
    (scores.logps[mask].sum() + (scores.values[mask] ** 2).sum()).backward()
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("k", [1, 2])
def test_gradients_equal_those_without(tiny_model_path, k):
    expected = gradients(tiny_model_path, recompute=False, k=k)
    found = gradients(tiny_model_path, recompute=True, k=k)
    assert all(x.abs().max() > 0 for x in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
