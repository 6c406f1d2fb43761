"""Micro-batches of rollouts: sampled from the policy as it is, scored, prepared, cut into minibatches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
    Role,
    Rollout,
    Scores,
    mean_of,
    unit_mask,
)
from preflab.method.feedback import Behaviour
from preflab.method.maths import kl_k1, kl_k2, kl_k3, masked_sum
from preflab.method.plugins import answering
from preflab.method.records import FIELDS
from preflab.method.validation import check_prepared
from preflab.model.in_parts import score_in_parts
from preflab.model.roles import Roles
from preflab.sampling.sampler import Sampler, Samples
from preflab.seeds import derive
from preflab.settings.training import TrainConfig
from preflab.training.fitting import Fitting
from preflab.training.sources import Shuffled

ROLLOUT_METRICS = {
    "reward": "what the policy maximises, per response: the frozen reward model's score, normalised, or --reward",
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

REWARD_METRICS = {"reward/<part>": "the score of each part of a weighted --reward, unweighted, per response"}
"""The same, of rewards that are sums."""

WEIGHT_METRICS = {"importance_truncated": "share of actions whose importance weight was cut at importance_cap"}
"""The same, of methods that weigh actions by π/π_engine."""


class Held(NamedTuple):
    """The rollout at hand, so that one of its steps can be asked for again.

    Attributes:
        number: which one it is.
        rollout: what was drawn, and scores of it.
        state: the method's, before it prepared the rollout.
        prepared: what the method made of it.
    """

    number: int
    rollout: Rollout
    state: Mapping[str, float]
    prepared: Batch


class RolloutSource:
    """Responses sampled from the policy as it is now, scored, prepared and cut into minibatches.

    Rollout i is drawn when its first minibatch is asked for, never earlier, and its behaviour
    log-probabilities are scored in the very micro-batches of its first epoch: the ratio of the first
    minibatch is exactly 1 (but for rollouts of one step, see `_scored`). Where the config says so, the reference
    follows the policy between rollouts, and the rest of a rollout is skipped once the policy has gone too far from
    the one that drew it.

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
        algorithm: LossMethod,
        needs: Needs,
        roles: Roles,
        sampler: Sampler,
        prompts: Sequence[Sequence[int]],
        train: TrainConfig,
        seed: int,
    ) -> None:
        self.algorithm, self.needs, self.roles, self.sampler = algorithm, needs, roles, sampler
        self.prompts, self.fitting, self.seed = prompts, Fitting(train), seed
        self.config = algorithm.config
        self.order = Shuffled(len(prompts), seed)
        self.steps_per_rollout = self.config.steps_per_rollout(train)
        rollouts = math.ceil(len(prompts) / self.config.rollout_prompts)
        self.steps_per_epoch = rollouts * self.steps_per_rollout
        self.sampled_tokens = 0
        self.moves: tuple[Role, ...] = ("reference",) if self.config.reference_mixup else ()
        self._metrics: dict[str, Mean] = {}
        self._halted = False
        self._held: Held | None = None

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches from optimiser step `start_step` on.

        Raises:
            ValueError: if `start_step` lies inside a rollout whose responses are gone.
        """
        index, inside = divmod(start_step, self.steps_per_rollout)
        held = self._held if self._held is not None and self._held.number == index else None
        if inside and held is None:
            raise ValueError(
                f"step {start_step} lies inside a rollout; checkpoints go on from multiples of {self.steps_per_rollout}"
            )
        while True:
            if held is None:
                with self.roles.whole():
                    prepared = self.collect(index)
            else:
                # The policy that drew it is still there to be asked before the first step alone.
                prepared = held.prepared if inside else self._rescored(held)
            yield from itertools.islice(self._minibatches(prepared, index), inside * self.fitting.per_step, None)
            index, inside, held = index + 1, 0, None

    def collect(self, index: int) -> Batch:
        """Sample, score and prepare rollout number `index`."""
        self._held = None
        config, count = self.config, self.config.rollout_prompts
        if config.reference_mixup and index and index % config.reference_sync == 0:
            self.roles.blend("policy", "reference", config.reference_mixup)
        prompts = [self.prompts[row] for row in self.order.take(index * count, count)]
        samples = self.sampler(
            self.roles,
            "policy",
            prompts,
            k=config.samples_per_prompt,
            temperature=config.temperature,
            seed=derive(self.seed, "rollout", index, 0),  # 0, once a rank, so that samples stay what they were
        )
        batch = samples.batch
        rollout = Rollout(batch, self._scored(samples), samples.ended)
        if self.sampler.other_engine:
            assert samples.logps is not None, "another engine says what it drew by"
            rollout = rollout._replace(sampler_logps=samples.logps)
        self.sampled_tokens += int(batch.response_mask.sum())
        self._halted = False
        return self._prepared(index, rollout)

    def _scored(self, samples: Samples) -> Scores:
        """Score a rollout by all roles that the method asks for.

        The sampler's own log-probabilities differ from a pass's by rounding alone, in float32 by some 1e-6. Where all
        is trained in one step, no ratio shows it, and they spare a pass.
        """
        roles, asked = self.roles, list(self.needs.rollout)
        rounded = roles.autocast or roles.model.dtype != torch.float32
        apart = self.steps_per_rollout == 1 and ("policy",) in roles.passes(asked)
        if not apart or rounded or self.sampler.other_engine or samples.logps is None:
            return score_in_parts(roles, samples.batch, asked, self.fitting.size)
        asked.remove("policy")
        scores = score_in_parts(roles, samples.batch, asked, self.fitting.size) if asked else Scores()
        return scores._replace(logps=samples.logps)

    def _prepared(self, index: int, rollout: Rollout) -> Batch:
        state = dict(self.algorithm.state)
        with answering(self.algorithm, "prepare"):
            count = len(rollout.batch.prompt_ids)
            prepared = check_prepared(self.algorithm, self.algorithm.prepare(rollout), count)
        self._metrics = {
            **rollout_metrics(rollout),
            **self.roles.reward_metrics(),
            **weight_metrics(rollout, prepared.feedback, self.config),
        }
        self._held = Held(index, rollout, state, prepared)
        return prepared

    def _rescored(self, held: Held) -> Batch:
        """Let the roles that learn score a rollout again, in the micro-batches of today, and prepare it anew."""
        again = [role for role in self.needs.rollout if role in self.needs.trains]
        scores = score_in_parts(self.roles, held.rollout.batch, again, self.fitting.size)
        found = held.rollout.scores._replace(**{FIELDS[role]: scores.of(role) for role in again})
        self.algorithm.state = dict(held.state)
        return self._prepared(held.number, held.rollout._replace(scores=found))

    def _minibatches(self, prepared: Batch, index: int) -> Iterator[Batch]:
        fitting, count = self.fitting, len(prepared.prompt_ids)
        for epoch in range(self.config.rollout_epochs):
            # Samples come in random order already; the first epoch keeps it (see the class).
            order = torch.arange(count)
            if epoch:
                generator = torch.Generator().manual_seed(derive(self.seed, "minibatches", index, epoch, 0))
                order = torch.randperm(count, generator=generator)
            for step in torch.split(order, fitting.batch):
                for part in torch.split(step[fitting.own], fitting.size):
                    rows = prepared.rows(part.to(prepared.prompt_ids.device))
                    yield rows.emptied() if self._halted else rows

    def heaviest(self, size: int) -> Batch:
        """Return the longest prompts, with responses that all reach the length limit."""
        longest = sorted(self.prompts, key=len, reverse=True)
        limit, k = self.sampler.max_response_tokens, self.config.samples_per_prompt
        groups = [EncodedGroup(list(longest[i % len(longest)]), [[0] * limit] * k, i) for i in range(size)]
        return collate(groups, 0)

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
