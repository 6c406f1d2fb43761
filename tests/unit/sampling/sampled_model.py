"""Prompts, and the roles of a tiny model that samplers draw from."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

VOCABULARY, PAD, END, OTHER_END, LENGTH = 6, 0, 2, 4, 5
PROMPTS = [[3, 4, 5, 3, 3], [5], [4, 4]]


def open_roles(folder, temperature=1.0):
    model = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=2, lora_alpha=4), temperature=temperature)
    shake(roles, seed=1)
    return roles


def shake(roles, seed):
    """Give the policy other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def draw(sampler, roles, k=8, seed=0, temperature=1.0, prompts=PROMPTS, role="policy"):
    return sampler(roles, role, prompts, k=k, temperature=temperature, seed=seed)
