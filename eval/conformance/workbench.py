"""A bench to try any method on: a random Llama of a few thousand weights, all roles on it, runs of a few steps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from preflab.data.encoding import EncodedGroup
from preflab.method.configured import Method
from preflab.method.contract import Batch, Responses, Role
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig
from preflab.training.offline import OfflineSource
from preflab.training.rollouts import RolloutSource
from preflab.training.sources import Source
from preflab.training.trainer import run_training

VOCABULARY, PAD, END, GOOD, BAD = 31, 0, 2, 3, 4
ROLES: tuple[Role, ...] = ("policy", "reference", "reward", "value")
PROMPTS, LIMIT = 8, 6


class Run(NamedTuple):
    """A finished run: the roles as it left them, and its lines of metrics."""

    roles: Roles
    lines: list[dict[str, Any]]


def make_roles(dtype: torch.dtype = torch.float64, names: tuple[Role, ...] = ROLES, *, joint: bool = False) -> Roles:
    """Return roles that say something: an SFT adapter (with the reference its clone), a reward model, values.

    float64 leaves room for exactness: Adam divides by the gradient's own size, and so blows rounding up.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=PAD,
            bos_token_id=1,
            eos_token_id=END,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
    own = [name for name in names if not (joint and name == "value")]
    roles = Roles(model.requires_grad_(False), LoraSettings(lora_rank=4, lora_alpha=8), own, seed=1)
    if joint:
        roles.join_value()
    roles.to(dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in ("policy", "reward", "value"):
            for parameter in roles.parameters_of(name) if name in own else ():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(dtype))
    if "reference" in names:
        roles.clone("policy", "reference")
    return roles


def counts_good(batch: Batch) -> Tensor:
    """A reward that anyone can follow: good tokens less bad ones, ``[B, K]``."""
    good, bad = ((batch.response_ids == token) & batch.response_mask for token in (GOOD, BAD))
    return (good.sum(-1) - bad.sum(-1)).double()


def make_groups(responses: Responses = "pair", count: int = 16, seed: int = 0) -> list[EncodedGroup]:
    """Return random ragged rows of the kind a method asks for."""
    random = np.random.default_rng(seed)
    size = {"demonstration": 1, "single": 1, "pair": 2, "ranking": 3, "sampled": 0}[responses]

    def ids(low: int, high: int) -> list[int]:
        return [int(i) for i in random.integers(3, VOCABULARY, random.integers(low, high))]

    def row(i: int) -> EncodedGroup:
        # One ranking in three lacks its last response.
        present = size - 1 if responses == "ranking" and i % 3 == 0 else size
        feedback = {"desirable": float(i % 2)} if responses == "single" else {}
        return EncodedGroup(ids(1, 8), [[*ids(1, LIMIT), END] for _ in range(present)], i, feedback)

    return [row(i) for i in range(count)]


def small(method: Method, **train: Any) -> Method:
    """Return a method with its own losses' settings, on rollouts and batches of a few rows."""
    config = method.config
    if isinstance(config, RolloutConfig):
        config = dataclasses.replace(config, rollout_prompts=PROMPTS, rollout_epochs=2)
    chosen: dict[str, Any] = {
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "max_grad_norm": 0.0,  # clipped gradients would all be of one length
        **train,
    }
    return Method(method.name, type(method.algorithm), config, TrainConfig(**chosen))


def open_source(method: Method, algorithm: Any, roles: Roles, seed: int = 5) -> Source:
    """Return the source of a method's batches on random rows or prompts."""
    groups = make_groups(method.needs.responses)
    if method.needs.responses != "sampled":
        return OfflineSource(groups, method.train, PAD, seed, algorithm=algorithm, roles=roles)
    sampler, prompts = TransformersSampler(END, PAD, LIMIT), [group.prompt_ids for group in groups]
    return RolloutSource(algorithm, method.needs, roles, sampler, prompts, method.train, seed)


def roles_for(method: Method) -> Roles:
    """Return the roles a method runs with; what it maximises is `counts_good`, if it maximises anything."""
    roles = make_roles(joint=method.needs.joint)
    if "reward" not in method.needs.trains:
        roles.reward_function = counts_good
    return roles


def train(
    method: Method, folder: Path, *, wrap: Callable[[Source], Source] = lambda source: source, algorithm: Any = None
) -> Run:
    """Train a method as `small` returns it, from its last checkpoint in `folder` if there is one."""
    roles, algorithm = roles_for(method), algorithm or method.fresh()
    folder.mkdir(parents=True, exist_ok=True)
    source = wrap(open_source(method, algorithm, roles))
    run_training(roles, algorithm, source, method.train, folder, seed=3, title=method.label)
    return Run(roles, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
