"""The harness: every policy and every reward model is scored by the same calls on the same rows."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preflab import ranks
from preflab.data.asked import Asked
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.data.splits import group_key
from preflab.disk.digests import digest
from preflab.disk.files import read_jsonl, remove, write_jsonl
from preflab.disk.seals import file_damage, seal_file
from preflab.eval.harness.policies import Policy
from preflab.eval.harness.rows import Tokens, world_batch
from preflab.eval.judges import Judge
from preflab.eval.records.records import PREFERENCES, Records, Rows
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.method.contract import Batch
from preflab.model.in_parts import alike, reward_scores
from preflab.model.roles import Roles
from preflab.progress import tracked
from preflab.sampling.sampler import Decoder, Sampler
from preflab.seeds import derive

logger = logging.getLogger(__name__)

SAMPLED_AT_ONCE = 128  # prompts whose answers are kept together; what a killed evaluation loses at most


def evaluate_policy(
    experiment: Experiment,
    roles: Roles,
    judge: Judge | None,
    config: EvalConfig,
    *,
    seed: int,
    title: str,
    decode: Callable[[Sampler], Decoder] | None = None,
    policy: Policy | None = None,
    generate: bool = True,
    folder: Path | None = None,
) -> Records:
    """Score a policy: held-out preferences, and one sampled response to each prompt.

    Args:
        experiment: gives prompts, pairs and sampler.
        roles: the reference, the policy unless `policy` is given, and the reward model where there is one.
        judge: gives gold rewards, on a base of its own or on that of `roles`; None leaves them out.
        config: sizes and temperature.
        seed: of the sampled responses.
        title: for what is shown of progress.
        decode: what the method makes of the sampler, where it does not just sample the policy.
        policy: one that is not just the role ``policy`` of `roles`.
        generate: whether to sample responses at all.
        folder: where parts are kept as they are done, and found by the same call after a kill.
    """
    policy = policy or Policy(roles, Tokens.of(experiment, config))
    sampler = policy.sampler(experiment, config.eval_batch_size)
    decoder = decode(sampler) if decode is not None else None

    def columns(batch: Batch) -> dict[str, Tensor]:
        if decoder is not None:
            return {"score": decoder.implicit_rewards(policy.roles, batch.to(policy.roles.device))}
        return policy.likelihoods(roles, batch)

    preferences = _part(
        folder, PREFERENCES, lambda: score_preferences(columns, experiment, policy.tokens, config, title)
    )
    if not generate:
        return Records([], preferences)
    answers = _answers(policy, decoder or sampler, config, seed=seed, title=title, folder=folder)
    return Records(_sample_rows(experiment, roles, policy, answers, decoder is None, judge, config, title), preferences)


def evaluate_reward_model(
    experiment: Experiment,
    roles: Roles | None,
    config: EvalConfig,
    *,
    title: str,
    rewards: Callable[[Batch], Tensor] | None = None,
    tokens: Tokens | None = None,
) -> Records:
    """Score the reward role on the held-out preferences, or any function that gives rewards ``[B, K]``.

    Args:
        experiment: gives the pairs.
        roles: has the role ``reward``; None where `rewards` is given.
        config: sizes.
        title: for what is shown of progress.
        rewards: what takes the role's place.
        tokens: the pairs in its tokens, where they are not the experiment's.
    """

    def columns(batch: Batch) -> dict[str, Tensor]:
        if rewards is not None:
            return {"score": rewards(batch)}
        assert roles is not None
        # By what its loss trained: the normalised scores that policies are given are no log-odds.
        return {"score": roles.raw_rewards(batch.to(roles.device))}

    tokens = tokens or Tokens.of(experiment, config)
    return Records([], score_preferences(columns, experiment, tokens, config, title))


def evaluate_judge(experiment: Experiment, judge: Judge, config: EvalConfig, *, title: str) -> Records:
    """Let a judge score the held-out preferences as it scores answers: their texts, or the tokens that say the same.

    Args:
        experiment: gives the pairs.
        judge: scores them.
        config: sizes.
        title: for what is shown of progress.
    """
    tokens, data = Tokens.of(experiment, config), experiment.world.heldout
    asked = {tuple(group.prompt_ids): data[group.row]["prompt"] for group in tokens.pairs}

    def columns(batch: Batch) -> dict[str, Tensor]:
        prompts = [
            asked[tuple(ids[mask].tolist())] for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)
        ]
        texts = [
            [
                tokens.tokenizer.decode(ids[mask], skip_special_tokens=True).strip()
                for ids, mask in zip(*row, strict=True)
            ]
            for row in zip(batch.response_ids, batch.response_mask, strict=True)
        ]
        return {"score": torch.tensor(judge(batch, prompts, texts))}

    return Records([], score_preferences(columns, experiment, tokens, config, title))


def evaluate_responses(
    experiment: Experiment, roles: Roles, judge: Judge | None, config: EvalConfig, responses: Mapping[str, str]
) -> Records:
    """Judge given responses, by prompt; no held-out pair can be scored by them.

    Args:
        experiment: gives the prompts.
        roles: has the role ``reward`` where there is a reward model.
        judge: gives gold rewards.
        config: sizes.
        responses: of every evaluation prompt.
    """
    groups = experiment.eval_prompts[: config.eval_prompts]
    prompts = [experiment.world.eval_prompts[group.row]["prompt"] for group in groups]
    texts = [responses[prompt] for prompt in prompts]
    batch, lengths = world_batch(experiment, prompts, texts)
    columns = {"length": lengths, **_messages(experiment, prompts)}
    return Records(_judged(roles, judge, config, batch.to(roles.device), prompts, texts, columns), [])


@torch.no_grad()
def score_preferences(
    columns: Callable[[Batch], Mapping[str, Tensor]],
    experiment: Experiment,
    tokens: Tokens,
    config: EvalConfig,
    title: str,
) -> Rows:
    """Score chosen and rejected of each held-out pair, longest pairs together; rows in data order.

    Args:
        columns: ``score`` and ``logp``, or one of them, ``[B, 2]``, of a batch of pairs.
        experiment: says which subset a pair is of.
        tokens: the pairs.
        config: the batch size.
        title: for what is shown of progress.
    """
    data = experiment.world.heldout
    subsets = data["subset"] if "subset" in data.column_names else [None] * len(data)
    given = data["group"] if "group" in data.column_names else [None] * len(data)
    rows: dict[int, dict[str, Any]] = {}
    parts = _by_length(tokens.pairs, config.eval_batch_size)

    def of_part(part: Sequence[int]) -> dict[str, Any]:
        batch = collate([tokens.pairs[i] for i in part], _pad(tokens))
        return {name: x.double().tolist() for name, x in columns(batch).items()}

    shown = partial(tracked, title=f"{title}: held-out pairs", unit="batch")
    for part, found in zip(parts, ranks.spread(parts, of_part, shown), strict=True):
        groups = [tokens.pairs[i] for i in part]
        for at, (i, group) in enumerate(zip(part, groups, strict=True)):
            at_prompt = given[group.row] or _hashed(data[group.row]["prompt"])
            row: dict[str, Any] = {"row": group.row, "subset": subsets[group.row], "group": at_prompt}
            for name in ("score", "logp"):
                row[f"chosen_{name}"], row[f"rejected_{name}"] = found[name][at] if name in found else (None, None)
            row["chosen_length"], row["rejected_length"] = map(len, group.response_ids)
            if "preference" in group.feedback:
                row["preference"] = group.feedback["preference"]
            rows[i] = row
    return [rows[i] for i in sorted(rows)]


def _hashed(prompt: str) -> str:
    """Return the name of a prompt's group, as the splits of real data have it."""
    return digest(group_key(prompt), 16)


def _by_length(groups: Sequence[EncodedGroup], size: int) -> list[list[int]]:
    order = sorted(range(len(groups)), key=lambda i: len(groups[i].prompt_ids) + max(map(len, groups[i].response_ids)))
    return [order[at : at + size] for at in range(0, len(order), size)]


def _answers(
    policy: Policy, sampler: Sampler, config: EvalConfig, *, seed: int, title: str, folder: Path | None
) -> Rows:
    """Let the policy answer each prompt once: rows ``ids``, ``ended`` and the decoder's ``log_ratio``.

    They depend on the seed and the prompts alone, not on where an earlier call was killed.
    """

    def ask(at: int) -> Rows:
        samples = sampler(
            policy.roles,
            "policy",
            [group.prompt_ids for group in policy.tokens.prompts[at : at + SAMPLED_AT_ONCE]],
            k=1,
            temperature=config.eval_temperature,
            seed=derive(config.eval_seed, "evaluation", seed, at),
        )
        ids, masks = samples.batch.response_ids[:, 0], samples.batch.response_mask[:, 0]
        ratios = [None] * len(ids) if samples.log_ratio is None else samples.log_ratio[:, 0].tolist()
        ends = samples.ended[:, 0].tolist()
        return [
            {"ids": row[mask].tolist(), "ended": ended, "log_ratio": ratio}
            for row, mask, ended, ratio in zip(ids, masks, ends, ratios, strict=True)
        ]

    # What samples at a temperature is the policy at that temperature, for a decoder's scores too.
    with policy.roles.at_temperature(config.eval_temperature):
        starts = range(0, len(policy.tokens.prompts), SAMPLED_AT_ONCE)
        parts = tracked(starts, f"{title}: answers", "part")
        return [row for at in parts for row in _part(folder, f"answers-{at}.jsonl", partial(ask, at))]


def _sample_rows(
    experiment: Experiment,
    roles: Roles,
    policy: Policy,
    answers: Rows,
    plain: bool,
    judge: Judge | None,
    config: EvalConfig,
    title: str,
) -> Rows:
    """Say what the policy itself, the reference, the reward model and the judge make of the answers.

    `plain` says that they are the policy's own samples, not chosen among such by a decoder.
    """
    groups = [
        group._replace(response_ids=[row["ids"]]) for group, row in zip(policy.tokens.prompts, answers, strict=True)
    ]
    batch = collate(groups, policy.pad_id)
    columns: dict[str, Sequence[Any]] = {
        "length": [len(row["ids"]) for row in answers],
        "ended": [row["ended"] for row in answers],
    }
    columns |= _figures(roles, policy, batch, config, title)
    if not plain:
        columns |= {"kl": [None] * len(answers), "entropy": [None] * len(answers)}
        shares = [row["log_ratio"] for row in answers]
        if policy.comparable and None not in shares:
            columns["log_ratio"] = [a + b for a, b in zip(columns["log_ratio"], shares, strict=True)]
    prompts = [experiment.world.eval_prompts[group.row]["prompt"] for group in groups]
    texts = [policy.tokens.tokenizer.decode(row["ids"], skip_special_tokens=True).strip() for row in answers]
    if not policy.comparable and (judge or roles.gives_rewards):
        batch, _ = world_batch(experiment, prompts, texts)
    columns = {**columns, **_messages(experiment, prompts)}
    return _judged(roles, judge, config, batch.to(roles.device), prompts, texts, columns)


def _messages(experiment: Experiment, prompts: Sequence[str]) -> dict[str, list[Any]]:
    """Return prompts as messages, for who reads the rows, where a chat template wrote them."""
    found = [experiment.world.asked.get(prompt, Asked()).messages for prompt in prompts]
    return {"messages": found} if experiment.world.chat else {}


@torch.no_grad()
def _figures(
    roles: Roles, policy: Policy, batch: Batch, config: EvalConfig, title: str
) -> dict[str, list[float | None]]:
    """Return ``log_ratio``, ``kl`` and ``entropy`` of one response a prompt, at the temperature it was drawn at."""
    found: dict[str, list[float | None]] = {
        name: [None] * len(batch.prompt_ids) for name in ("log_ratio", "kl", "entropy")
    }

    def of_part(at: Tensor) -> dict[str, list[float]]:
        part = batch.rows(at).to(policy.roles.device)
        figures = policy.figures(roles, part, config.eval_temperature)
        log_ratio = figures.log_ratio
        if policy.comparable and log_ratio is None:
            with policy.roles.at_temperature(config.eval_temperature), roles.at_temperature(config.eval_temperature):
                log_ratio = policy.likelihoods(roles, part)["score"]
        columns = {"log_ratio": log_ratio, "kl": figures.kl, "entropy": figures.entropy}
        return {name: values[:, 0].tolist() for name, values in columns.items() if values is not None}

    parts = alike(batch, config.eval_batch_size)
    shown = partial(tracked, title=f"{title}: scores", unit="batch")
    for at, figures in zip(parts, ranks.spread(parts, of_part, shown), strict=True):
        for name, values in figures.items():
            for row, value in zip(at.tolist(), values, strict=True):
                found[name][row] = value
    return found


@torch.no_grad()
def _judged(
    roles: Roles,
    judge: Judge | None,
    config: EvalConfig,
    batch: Batch,
    prompts: list[str],
    texts: list[str],
    columns: Mapping[str, Sequence[Any]],
) -> Rows:
    """Return rows of samples: given columns, and those of the reward model and the judge."""
    none: list[float | None] = [None] * len(prompts)
    proxies, golds = none, none
    if roles.gives_rewards:
        proxies = reward_scores(roles, batch, config.eval_batch_size)[:, 0].tolist()
    if judge:
        given_by = partial(judge, batch, prompts, [[text] for text in texts])
        golds = [row[0] for row in ranks.once(given_by)]
    given = {name: columns.get(name, none) for name in ("length", "ended", "log_ratio", "kl", "entropy")}
    messages = {name: columns[name] for name in ("messages",) if name in columns}
    table = {"prompt": prompts, **messages, "response": texts, **given, "gold": golds, "proxy": proxies}
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _pad(tokens: Tokens) -> int:
    pad_id: int = tokens.tokenizer.pad_token_id
    return pad_id


def _part(folder: Path | None, name: str, make: Callable[[], Rows]) -> Rows:
    """Return the rows that a killed evaluation left in `folder`; else, or where they are damaged, make them."""
    if folder is None:
        return make()
    path = folder / name
    kept = ranks.once(partial(_kept, path))
    if kept is not None:
        return kept
    rows = make()
    write_jsonl(path, rows)
    seal_file(path)
    return rows


def _kept(path: Path) -> Rows | None:
    """Return the rows of a part that is whole; say so and remove it where it is not."""
    if not os.path.lexists(path):
        return None
    trouble = file_damage(path)
    if trouble is None:
        return read_jsonl(path)
    logger.warning("%s: %s; that part is evaluated again", path.parent.name, trouble)
    remove(path)
    return None
