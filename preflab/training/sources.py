"""Batch sources: where the loop's micro-batches come from. The loop cannot tell them apart.

A source is a pure function of its seed and the optimiser step: it can start anywhere, so that an
interrupted run goes on where it stopped and ends with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.method.contract import (
    Batch,
    Feedback,
    LossMethod,
    Mean,
    Needs,
    Prepares,
    Role,
    Rollout,
    mean_of,
    unit_mask,
)
from preflab.method.maths import kl_k1, kl_k2, kl_k3, masked_sum
from preflab.method.on_policy import Behaviour
from preflab.method.plugins import answering, check_prepared
from preflab.model.in_parts import score_in_parts
from preflab.model.roles import Roles
from preflab.model.work import scored
from preflab.sampling.sampler import Sampler
from preflab.seeds import derive
from preflab.settings.training import TrainConfig
from preflab.training.reference import ReferenceLogps

ROLLOUT_METRICS = {
    "reward": "score of the (frozen) reward model, normalised, per response",
    "kl": "k1 estimate of KL(π‖π_ref), nats per response; signed",
    "kl_k2": "k2 estimate of the same",
    "kl_k3": "k3 estimate of the same",
    "entropy": "−log π of the sampled tokens, nats per token: an unbiased estimate of the entropy",
    "response_length": "tokens per response, the end token included",
    "ended": "share of responses that ended before the length limit",
    "zero_variance_groups": "share of prompts whose k > 1 responses all got the same reward",
}
ENGINE_METRICS = {
    "sampler_gap": "mean |log π_engine − log π| of the sampled tokens, nats per token",
    "sampler_kl": "k3 estimate of KL(π_engine‖π), nats per token",
}
"""What is logged besides of rollouts that another engine drew than scores."""

WEIGHT_METRICS = {"importance_truncated": "share of actions whose importance weight was cut at importance_cap"}
"""The same, of methods that weigh actions by π/π_engine."""


class Source(Protocol):
    """Yields the micro-batches of each optimiser step, forever.

    Attributes:
        steps_per_epoch: optimiser steps of one pass over the data.
        sampled_tokens: response tokens drawn so far.
        moves: roles that the source itself changes, which checkpoints must therefore hold.
    """

    steps_per_epoch: int
    sampled_tokens: int
    moves: tuple[Role, ...]

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches from optimiser step `start_step` on."""
        ...

    def take_metrics(self) -> dict[str, Mean]:
        """Return metrics gathered since the last call, and forget them."""
        ...

    def observe(self, metrics: Mapping[str, Mean]) -> None:
        """Learn what the loss logged on the optimiser step just taken."""
        ...


class Shard:
    """Which rows of a shuffled, endless stream belong to this rank.

    The stream is one permutation of the rows after another, each a function of seed and epoch.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.size, self.seed, self.rank, self.ranks = size, seed, rank, ranks
        self._cached: tuple[int, np.ndarray] | None = None

    def take(self, start: int, count: int) -> list[int]:
        """Return this rank's `count` rows of the global stretch that begins at row ``start · ranks``."""
        first = start * self.ranks + self.rank * count
        return [self._row(position) for position in range(first, first + count)]

    def new(self, start: int, count: int) -> int:
        """Return how many of the rows that `take` would give are read for the first time; they come first."""
        return max(0, min(count, self.size - start * self.ranks - self.rank * count))

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        return int(self._permutation(epoch)[offset])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            order = np.random.default_rng(derive(self.seed, "order", epoch)).permutation(self.size)
            self._cached = (epoch, order)
        return self._cached[1]


class OfflineSource:
    """Demonstrations, single responses, pairs or rankings, shuffled anew each epoch.

    Args:
        groups: encoded rows.
        train: batch sizes.
        pad_id: what padding is filled with.
        seed: decides the order.
        reference: log-probabilities of the groups under the reference; None: its role computes them.
        algorithm: where it names roles in `Needs.rollout`, its `prepare` sees each optimiser batch whole.
        roles: what scores the batch for `prepare`.
    """

    moves: tuple[Role, ...] = ()

    def __init__(
        self,
        groups: Sequence[EncodedGroup],
        train: TrainConfig,
        pad_id: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        *,
        reference: ReferenceLogps | None = None,
        algorithm: LossMethod | None = None,
        roles: Roles | None = None,
    ) -> None:
        self.groups, self.train, self.pad_id = groups, train, pad_id
        self.reference, self.roles = reference, roles
        self.algorithm = algorithm if algorithm is not None and algorithm.needs.rollout else None
        self.mismatched = algorithm is not None and algorithm.needs.responses == "single"
        self.shard = Shard(len(groups), seed, rank, ranks)
        self.sampled_tokens = 0
        self.steps_per_epoch = math.ceil(len(groups) / (train.optimiser_batch * ranks))

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches from optimiser step `start_step` on."""
        micro, size = self.train.per_device_train_batch_size, self.train.optimiser_batch
        step = start_step
        while True:
            rows, new = self.shard.take(step * size, size), self.shard.new(step * size, size)
            if self.algorithm is None:
                for at in range(0, size, micro):
                    batch = self._collate(rows[at : at + micro])
                    self._charge_reference(batch, min(micro, new - at))
                    yield batch
            else:
                prepared = self._prepared(self._collate(rows))
                for at in range(0, size, micro):
                    yield prepared.rows(slice(at, at + micro))
            step += 1

    def _collate(self, rows: Sequence[int]) -> Batch:
        groups = [self.groups[row] for row in rows]
        if self.mismatched:
            groups = mismatched(groups)
        batch = collate(groups, self.pad_id)
        if self.reference is not None:
            return batch.replace(reference_logps=self.reference.spread(rows, batch))
        return batch

    def _charge_reference(self, batch: Batch, count: int) -> None:
        """Account for the kept reference scores of a batch's first `count` rows, never read before.

        Other runs share them, but alone the run would have had to compute them, once.
        """
        if self.reference is None or self.roles is None or count <= 0:
            return
        path = self.roles.scorer.path(batch.to(self.roles.device))
        passed = scored(batch.rows(slice(0, count)), path, last=False, head=True)
        self.roles.work.add(passed, self.roles.adapter_size("reference"))

    def _prepared(self, batch: Batch) -> Batch:
        assert self.algorithm is not None
        assert self.roles is not None, "who asks for `prepare` gives the roles it needs"
        batch = batch.to(self.roles.device)
        scores = score_in_parts(self.roles, batch, self.algorithm.needs.rollout, self.train.per_device_train_batch_size)
        with answering(self.algorithm, "prepare"):
            prepared = self.algorithm.prepare(Rollout(batch, scores, batch.response_mask.any(-1)))
        return check_prepared(self.algorithm, prepared)

    def take_metrics(self) -> dict[str, Mean]:
        """Offline data has nothing to report."""
        return {}

    def observe(self, metrics: Mapping[str, Mean]) -> None:
        """Offline data does not depend on what is learnt from it."""


def mismatched(groups: Sequence[EncodedGroup]) -> list[EncodedGroup]:
    """Return the groups with the response of the one before, which says nothing of this prompt, at index 1."""
    pairs = zip(groups, [groups[-1], *groups[:-1]], strict=True)
    return [g._replace(response_ids=[g.response_ids[0], other.response_ids[0]]) for g, other in pairs]


class RolloutSource:
    """Responses sampled from the policy as it is now, scored, prepared and cut into minibatches.

    Rollout i is drawn when its first minibatch is asked for, never earlier, and its behaviour
    log-probabilities are scored in the very micro-batches of its first epoch: the ratio of the first
    minibatch is exactly 1. Where the config says so, the reference follows the policy between rollouts, and
    the rest of a rollout is skipped once the policy has gone too far from the one that drew it.

    Args:
        algorithm: an on-policy method; its config is a `RolloutConfig`.
        needs: what it needs.
        roles: the roles it samples from and scores with.
        sampler: draws the responses.
        prompts: token ids of the prompts.
        train: batch sizes.
        seed: decides prompts' order, samples and minibatches.
    """

    def __init__(
        self,
        algorithm: Prepares,
        needs: Needs,
        roles: Roles,
        sampler: Sampler,
        prompts: Sequence[Sequence[int]],
        train: TrainConfig,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.algorithm, self.needs, self.roles, self.sampler = algorithm, needs, roles, sampler
        self.prompts, self.train, self.seed, self.rank = prompts, train, seed, rank
        self.config = algorithm.config
        self.shard = Shard(len(prompts), seed, rank, ranks)
        self.steps_per_rollout = self.config.steps_per_rollout(train)
        rollouts = math.ceil(len(prompts) / (self.config.rollout_prompts * ranks))
        self.steps_per_epoch = rollouts * self.steps_per_rollout
        self.sampled_tokens = 0
        self.moves: tuple[Role, ...] = ("reference",) if self.config.reference_mixup else ()
        self._metrics: dict[str, Mean] = {}
        self._halted = False

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches from optimiser step `start_step` on.

        Raises:
            ValueError: if `start_step` lies inside a rollout, whose responses are gone.
        """
        index, inside = divmod(start_step, self.steps_per_rollout)
        if inside:
            raise ValueError(
                f"step {start_step} lies inside a rollout; checkpoints go on from multiples of {self.steps_per_rollout}"
            )
        while True:
            yield from self._minibatches(self.collect(index), index)
            index += 1

    def collect(self, index: int) -> Batch:
        """Sample, score and prepare rollout number `index`."""
        config, count = self.config, self.config.rollout_prompts
        if config.reference_mixup and index and index % config.reference_sync == 0:
            self.roles.blend("policy", "reference", config.reference_mixup)
        prompts = [self.prompts[row] for row in self.shard.take(index * count, count)]
        samples = self.sampler(
            self.roles,
            "policy",
            prompts,
            k=config.samples_per_prompt,
            temperature=config.temperature,
            seed=derive(self.seed, "rollout", index, self.rank),
        )
        batch, micro = samples.batch, self.train.per_device_train_batch_size
        rollout = Rollout(batch, score_in_parts(self.roles, batch, self.needs.rollout, micro), samples.ended)
        if self.sampler.other_engine:
            assert samples.logps is not None, "another engine says what it drew by"
            rollout = rollout._replace(sampler_logps=samples.logps)
        self.sampled_tokens += int(batch.response_mask.sum())
        with answering(self.algorithm, "prepare"):
            prepared = check_prepared(self.algorithm, self.algorithm.prepare(rollout))
        self._metrics = {**rollout_metrics(rollout), **weight_metrics(rollout, prepared.feedback, config)}
        return prepared

    def _minibatches(self, prepared: Batch, index: int) -> Iterator[Batch]:
        micro, count = self.train.per_device_train_batch_size, len(prepared.prompt_ids)
        self._halted = False
        for epoch in range(self.config.rollout_epochs):
            # Samples come in random order already; the first epoch keeps it (see the class).
            order = torch.arange(count)
            if epoch:
                generator = torch.Generator().manual_seed(derive(self.seed, "minibatches", index, epoch, self.rank))
                order = torch.randperm(count, generator=generator)
            for at in range(0, count, micro):
                rows = prepared.rows(order[at : at + micro].to(prepared.prompt_ids.device))
                yield rows.emptied() if self._halted else rows

    def take_metrics(self) -> dict[str, Mean]:
        """Return the statistics of the rollout drawn since the last call, if any."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def observe(self, metrics: Mapping[str, Mean]) -> None:
        """Halt the rollout if the policy is farther from the one that drew it than `stop_kl`."""
        drift = metrics.get("approx_kl")
        if self.config.stop_kl is not None and drift is not None:
            self._halted = self._halted or bool(drift.total / drift.items.clamp(min=1) > self.config.stop_kl)


def rollout_metrics(rollout: Rollout) -> dict[str, Mean]:
    """Return the metrics that every on-policy method logs (see `ROLLOUT_METRICS` and `ENGINE_METRICS`)."""
    mask, scores = rollout.batch.response_mask, rollout.scores
    found = {
        "response_length": mean_of(mask.sum(-1)),
        "ended": mean_of(rollout.ended),
    }
    logps, reference, rewards = (scores.of(role) for role in ("policy", "reference", "reward"))
    if logps is not None:
        found["entropy"] = mean_of(-logps, mask)
        if reference is not None:
            estimators: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl_k1, "kl_k2": kl_k2, "kl_k3": kl_k3}
            for name, estimator in estimators.items():
                found[name] = mean_of(masked_sum(estimator(logps, reference), mask))
        if (drawn := rollout.sampler_logps) is not None:
            found["sampler_gap"] = mean_of((drawn - logps).abs(), mask)
            found["sampler_kl"] = mean_of(kl_k3(drawn, logps), mask)
    if rewards is not None:
        found["reward"] = mean_of(rewards)
        if rewards.shape[1] > 1:
            found["zero_variance_groups"] = mean_of(rewards.std(1) == 0)
    return found


def weight_metrics(rollout: Rollout, feedback: Feedback, config: Any) -> dict[str, Mean]:
    """Return the metrics of a rollout's importance weights (see `WEIGHT_METRICS`); none where its engine scored it."""
    if rollout.sampler_logps is None or not isinstance(feedback, Behaviour):
        return {}
    weights = feedback.importance_weights
    mask = unit_mask(rollout.batch, "token" if weights.ndim == 3 else "response")
    return {"importance_truncated": mean_of(weights >= config.importance_cap, mask)}
