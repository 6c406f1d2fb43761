"""Policies that do not stand on the world's base, but have weights of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from preflab.data.encoding import load_tokenizer
from preflab.eval.harness.policies import Policy
from preflab.eval.harness.rows import Tokens, tokens_of, world_batch
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.experiment.rewards import PlantedRewards
from preflab.method.contract import Batch
from preflab.model.base import load_base
from preflab.model.folding import folded_in
from preflab.model.in_parts import reward_scores
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings


def own_policy(experiment: Experiment, config: EvalConfig, world: Roles, model: Any, tokenizer: Any) -> Policy:
    """Return a causal language model as a policy; rewards, where asked for, are those of the world's roles.

    Args:
        experiment: gives the rows.
        config: how many.
        world: the roles on the experiment's own base.
        model: loaded, frozen.
        tokenizer: the model's own.
    """
    # An adapter that changes nothing: it is what a role is, and costs next to nothing at rank 1.
    roles = Roles(model, LoraSettings(lora_rank=1, lora_alpha=1, dtype=experiment.lora.dtype))
    tokens = tokens_of(experiment, config, model, tokenizer)
    comparable = tokens.tokenizer is experiment.tokenizer
    if world.gives_rewards:
        roles.reward_function = _rewards_through(experiment, config, world, tokens, comparable)
    outputs = [found.get_output_embeddings().weight.shape[0] for found in (model, world.model)]
    return Policy(roles, tokens, comparable, comparable and outputs[0] == outputs[1])


def _rewards_through(
    experiment: Experiment, config: EvalConfig, world: Roles, tokens: Tokens, comparable: bool
) -> Callable[[Batch], Tensor]:
    """Return the world's rewards ``[B, K]`` of batches in a policy's own tokens."""
    if comparable:
        return lambda batch: world(batch.to(world.device), ("reward",)).rewards.to(batch.prompt_ids.device)
    data = experiment.world
    splits = [(data.heldout, tokens.pairs), (data.eval_prompts, tokens.prompts)]
    texts = {tuple(group.prompt_ids): rows[group.row]["prompt"] for rows, groups in splits for group in groups}

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        batch, _ = world_batch(experiment, prompts, responses)
        return reward_scores(world, batch, config.eval_batch_size)[:, 0].tolist()

    return PlantedRewards(score, tokens.tokenizer, texts, "texts")


def load_policy(experiment: Experiment, source: str) -> tuple[Any, Any]:
    """Load a causal language model, frozen, and its tokenizer.

    Raises:
        UserError: if either cannot be loaded.
    """
    trust = experiment.world_config.trust_remote_code
    return load_base(source, experiment.lora, trust_remote_code=trust), load_tokenizer(source, trust)


def merged_policy(experiment: Experiment, folder: Path) -> Any:
    """Load the experiment's base with an adapter of any kind folded into its weights.

    Raises:
        UserError: if the adapter does not fit the base, or is of a kind that cannot be folded in.
    """
    return folded_in(experiment.load_base(), folder)
