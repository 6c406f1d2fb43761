"""What a reward model gets when its training is over: the scale of its scores, and a tokenizer for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preflab import ranks
from preflab.model.roles import Roles
from preflab.sampling.sampler import Sampler
from preflab.scoring.batching import rows_at_once
from preflab.scoring.padding import classifier_tokenizer, padding_of
from preflab.seeds import derive
from preflab.tokens.closing import closed_template
from preflab.tokens.portable import portable, write_tokenizer

NORMALISATION_PROMPTS = 256
NORMALISED_AT_ONCE = 32  # of those, where they are short
SMALLEST = 1e-6  # of deviations


@torch.no_grad()
def normalise(
    roles: Roles, prompts: Sequence[list[int]], sampler: Sampler, limit: int, *, seed: int, batch_size: int
) -> None:
    """Set the reward's mean and deviation to those of the starting policy's samples.

    Args:
        roles: the policy, and the reward model that was just trained.
        prompts: token ids; the first `NORMALISATION_PROMPTS` are answered.
        sampler: draws the answers.
        limit: tokens of an answer.
        seed: of the samples.
        batch_size: bounds memory.
    """
    rewards = sampled_rewards(roles, prompts, sampler, limit, seed=seed, batch_size=batch_size)
    head = roles.head("reward")
    head.mean.copy_(rewards.mean())
    if len(rewards) > 1:
        head.std.copy_(rewards.std().clamp(min=SMALLEST))


@torch.no_grad()
def sampled_rewards(
    roles: Roles, prompts: Sequence[list[int]], sampler: Sampler, limit: int, *, seed: int, batch_size: int
) -> Tensor:
    """Return the rewards of the starting policy's samples, as they are; arguments as for `normalise`."""
    prompts = prompts[:NORMALISATION_PROMPTS]
    sample = sampler(roles, "policy", prompts, k=1, temperature=1.0, seed=derive(seed, "normalise"))
    size = rows_at_once(NORMALISED_AT_ONCE, max(map(len, prompts)) + limit, batch_size)
    parts = [sample.batch.rows(slice(at, at + size)) for at in range(0, len(prompts), size)]
    return torch.cat(ranks.spread(parts, lambda part: roles(part, ("reward",)).rewards)).to(roles.device)


def save_classifier_tokenizer(
    roles: Roles, tokenizer: Any, ends: tuple[int, ...], folder: Path, *, chat: bool = False
) -> None:
    """Write the tokenizer beside a reward model so that others read what it was trained on.

    It pads so that they find the token that the model is read at, and its chat template ends dialogues there.

    Args:
        roles: the reward model's base.
        tokenizer: its.
        ends: the tokens that texts end in.
        folder: the reward model's.
        chat: whether a chat template wrote the texts, which nothing is added to.
    """
    found = classifier_tokenizer(tokenizer, padding_of(roles.model), ends)
    if found is None:
        return
    template = closed_template(tokenizer)
    if found.is_fast:
        write_tokenizer(folder, portable(found, adds=not chat), template)
    else:
        found.chat_template = template
        found.save_pretrained(str(folder))
