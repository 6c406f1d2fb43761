"""PPO and DPO on one page: from rows to optimiser step, without a trainer.

``python docs/loop.py`` runs both in the exact world, where every response to a prompt can be enumerated: how much
reward a policy earns, and at what KL, are sums, and what the best one would earn is known.

`PreferenceTrainer` (preflab/training/trainer.py) takes the same steps, as a test holds, and does what is left out here:
gradient accumulation, ranks, one graph at a time, budgets, checkpoints, snapshots, metrics on disk, bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import get_scheduler
from transformers.utils.logging import disable_progress_bar

from preflab import Batch, LoraSettings, LossMethod, Rollout, TrainConfig, unit_mask
from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup, Encoder, load_tokenizer
from preflab.experiment.rewards import PlantedRewards
from preflab.model.base import load_base
from preflab.model.in_parts import score_in_parts
from preflab.model.roles import Roles
from preflab.sampling.sampler import Sampler, TransformersSampler
from preflab.seeds import derive
from preflab.training.sources import Shuffled
from preflab.worlds import World, WorldConfig, open_world
from preflab.worlds.exact import all_responses, reward_table

# ---- where {y} comes from ----------------------------------------------------------------------------


def offline_batches(pairs: Sequence[EncodedGroup], train: TrainConfig, pad_id: int, seed: int) -> Iterator[Batch]:
    """Yield the batch of each optimiser step: rows of the data set, shuffled anew each time it is used up."""
    rows, size = Shuffled(len(pairs), seed), train.optimiser_batch
    step = 0
    while True:
        # Prompts [B, P] padded on the left, responses [B, 2, T] on the right, chosen before rejected.
        yield collate([pairs[row] for row in rows.take(step * size, size)], pad_id)
        step += 1


def rollout_batches(
    method: LossMethod, roles: Roles, sampler: Sampler, prompts: Sequence[list[int]], train: TrainConfig, seed: int
) -> Iterator[Batch]:
    """Yield the batch of each optimiser step: minibatches of rollouts, each drawn from the policy as it then is."""
    config, size = method.config, train.optimiser_batch
    rows, rollout = Shuffled(len(prompts), seed), 0
    while True:
        # 1. The policy answers some prompts, K times each.
        asked = [prompts[row] for row in rows.take(rollout * config.rollout_prompts, config.rollout_prompts)]
        k, drawn = config.samples_per_prompt, derive(seed, "rollout", rollout, 0)
        samples = sampler(roles, "policy", asked, k=k, temperature=config.temperature, seed=drawn)
        # 2. Policy, reference, reward and value say what they make of the answers; nothing is learnt from that.
        scores = score_in_parts(roles, samples.batch, method.needs.rollout, size)
        # 3. The method turns this into what its loss reads: for PPO, advantages and returns of every token.
        prepared = method.prepare(Rollout(samples.batch, scores, samples.ended))
        # 4. Several passes over the rollout, in minibatches. Only the very first one meets the policy that drew it.
        for epoch in range(config.rollout_epochs):
            order = torch.arange(len(asked))
            if epoch:
                generator = torch.Generator().manual_seed(derive(seed, "minibatches", rollout, epoch, 0))
                order = torch.randperm(len(asked), generator=generator)
            for index in order.split(size):
                yield prepared.rows(index.to(roles.device))
        rollout += 1


# ---- learning from it --------------------------------------------------------------------------------


def learn(method: LossMethod, roles: Roles, batches: Iterator[Batch], train: TrainConfig) -> Iterator[dict[str, float]]:
    """Take `max_steps` optimiser steps, and yield the metrics of each. This loop knows no method by name."""
    needs = method.needs
    parameters = roles.learn(needs.trains)  # adapters and heads of these roles; the base stays frozen
    betas = train.adam_beta1, train.adam_beta2
    optimiser = torch.optim.AdamW(parameters, train.learning_rate, betas, train.adam_epsilon, train.weight_decay)
    schedule = get_scheduler(train.lr_scheduler_type, optimiser, train.warmup(train.max_steps), train.max_steps)
    for _ in range(train.max_steps):
        # x, {y} and r: the next batch is made when it is asked for, after the last step and not before.
        batch = next(batches).to(roles.device)
        # What the roles say of it now, token by token; gradient reaches those that learn.
        scores = roles(batch, needs.scores)
        # L, of each pair or each token; its mean is taken over those that are no padding.
        loss, mask = method.loss(batch, scores), unit_mask(batch, needs.unit)
        mean = loss.values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
        # The optimiser's step.
        optimiser.zero_grad()
        mean.backward()
        if train.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        optimiser.step()
        schedule.step()
        yield {name: (found.total / found.items).item() for name, found in loss.metrics.items()}
    roles.learn(())


# ---- both methods in the exact world -----------------------------------------------------------------

SHARED = {"learning_rate": 1e-2, "adam_beta2": 0.95, "max_steps": 100}  # Adam forgets the first steps of a short run
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def main(cache: str = "~/.cache/preflab", seed: int = 0) -> None:
    """Open the world, train DPO on its pairs and PPO on its reward, and say where the two have come to."""
    world = open_world(WorldConfig(world="exact"), Path(cache).expanduser())
    tokenizer, limit = load_tokenizer(world.model), world.max_response_tokens
    encoder = Encoder(tokenizer, max_response_tokens=limit, cut=world.cut)
    pairs, _ = encoder.encode_pairs(world.pairs)
    prompts, _ = encoder.encode_prompts(world.prompts)
    best, kl = world.facts["optimal_objective"], world.facts["optimal_kl"]
    print(f"start: reward {world.facts['reward_of_reference']:.3f} at a KL of 0")
    print(f"best: reward {best + kl:.3f} at a KL of {kl:.3f}; reward - KL {best:.3f}")

    dpo, train = DPO(DPOConfig(beta=1.0)), TrainConfig(per_device_train_batch_size=512, **SHARED)
    roles = open_roles(world)
    for step, found in enumerate(learn(dpo, roles, offline_batches(pairs, train, tokenizer.pad_token_id, seed), train)):
        if step % 25 == 0:
            print(f"dpo, step {step}: accuracy {found['accuracy']:.3f}")
    report("dpo", roles, prompts)

    config = PPOConfig(kl_coefficient=1.0, rollout_prompts=4, samples_per_prompt=64, rollout_epochs=2)
    ppo, train = PPO(config), TrainConfig(per_device_train_batch_size=4, adam_epsilon=1e-5, **SHARED)
    roles = open_roles(world)
    roles.clone("policy", "value")  # with a head of its own
    texts = {tuple(group.prompt_ids): world.prompts[group.row]["prompt"] for group in prompts}
    # Here r is the world's own. On real data a reward model, trained before and frozen, is the role `reward`.
    roles.reward_function = PlantedRewards(world.gold, tokenizer, texts, world.gold_key)
    sampler = TransformersSampler(encoder.ends.ids, tokenizer.pad_token_id, limit)
    batches = rollout_batches(ppo, roles, sampler, [group.prompt_ids for group in prompts], train, seed)
    for step, found in enumerate(learn(ppo, roles, batches, train)):
        if step % 25 == 0:
            print(f"ppo, step {step}: value loss {found['value_loss']:.3f}")
    report("ppo", roles, prompts)


def open_roles(world: World) -> Roles:
    """Return the frozen base with a fresh policy adapter on it; without the adapter it is the reference."""
    lora = LoraSettings(lora_rank=16, lora_alpha=32, target_modules=MODULES)
    return Roles(load_base(world.model, lora), lora)


@torch.no_grad()
def report(name: str, roles: Roles, prompts: Sequence[EncodedGroup]) -> None:
    """Print the policy's expected reward and its KL to the reference: sums over all responses, means over prompts."""
    everything = [group._replace(response_ids=[list(ids) for ids in all_responses()]) for group in prompts]
    scores = roles(collate(everything, 0).to(roles.device), ("policy", "reference"))
    logps, reference = scores.logps.double().sum(-1), scores.reference_logps.double().sum(-1)
    rewards = torch.from_numpy(reward_table(0)).to(logps)
    reward, kl = (logps.exp() * rewards).sum(1).mean(), (logps.exp() * (logps - reference)).sum(1).mean()
    print(f"{name}: reward {reward:.3f} at a KL of {kl:.3f}; reward - KL {reward - kl:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bar()
    main()
