"""What gives r to the methods that maximise it: reward models, functions, or a weighted sum of several."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from preflab.disk.stages import Stage, content_hash
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.method.contract import Batch, Mean, mean_of
from preflab.settings.training import Pool
from preflab.worlds import GoldReward

if TYPE_CHECKING:
    from datasets import Dataset

    from preflab.data.encoding import EncodedGroup
    from preflab.model.roles import Roles

logger = logging.getLogger(__name__)

RewardFunction = Callable[[Batch], Tensor]

PROMPTS_AT_ONCE = 8
"""Of a rollout, to be scored by a reward model beside functions, which get the rollout whole."""


class Rewards(NamedTuple):
    """The source of r, frozen while a policy learns from it.

    Attributes:
        key: hash of what decides the rewards.
        stages: trained reward models; more than one make an ensemble.
        pool: how the ensemble's normalised scores become one.
        function: rewards ``[B, K]`` of a batch, in place of reward models.
        parts: what is summed up, in place of all these.
    """

    key: str
    stages: tuple[Stage, ...] = ()
    pool: Pool = "mean"
    function: RewardFunction | None = None
    parts: tuple[WeightedReward, ...] = ()

    @classmethod
    def of(cls, source: Stage | Rewards | RewardFunction) -> Rewards:
        """Wrap a reward model's stage or a function; leave the rest as it is.

        Raises:
            UserError: for a function that nothing tells from another: give it an attribute ``key``.
        """
        if isinstance(source, Rewards):
            return source
        if isinstance(source, Stage):
            return cls(source.key, (source,))
        return cls(_key_of(source), function=source)

    @classmethod
    def ensemble(cls, stages: Sequence[Stage], pool: Pool) -> Rewards:
        """Return the reward of one or more trained reward models."""
        if len(stages) == 1:
            return cls(stages[0].key, tuple(stages))
        return cls(content_hash([pool, *(stage.key for stage in stages)]), tuple(stages), pool)

    @classmethod
    def weighted(cls, parts: Sequence[WeightedReward]) -> Rewards:
        """Return a weighted sum; a single part of weight 1 is that part."""
        if len(parts) == 1 and parts[0].weight == 1:
            return parts[0].rewards
        return cls(content_hash([[part.weight, part.rewards.key] for part in parts]), parts=tuple(parts))

    @property
    def trained(self) -> Rewards | None:
        """The trained reward models, all of it or one of its parts; None where there are none."""
        return self if self.stages else next((part.rewards for part in self.parts if part.rewards.stages), None)

    def play(self, roles: Roles) -> None:
        """Let this be the role ``reward``.

        Raises:
            UserError: if a reward model does not fit the base.
        """
        if self.parts:
            summed = SummedRewards([(part.name, part.weight, part.rewards.scorer(roles)) for part in self.parts])
            roles.reward_function, roles.reward_metrics = summed, summed.metrics
        elif self.function is not None:
            roles.reward_function = self.function
        else:
            roles.start_rewards([stage.folder / "reward" for stage in self.stages], self.pool)

    def scorer(self, roles: Roles) -> RewardFunction:
        """Return what gives these rewards, beside whatever is the role ``reward``.

        Raises:
            UserError: if a reward model does not fit the base.
        """
        if self.function is not None:
            return self.function
        score = roles.rewards_beside([stage.folder / "reward" for stage in self.stages], self.pool)

        def in_parts(batch: Batch) -> Tensor:
            size = PROMPTS_AT_ONCE
            return torch.cat([score(batch.rows(slice(at, at + size))) for at in range(0, len(batch.prompt_ids), size)])

        return in_parts


class WeightedReward(NamedTuple):
    """An addend of a sum of rewards.

    Attributes:
        name: for metrics.
        weight: what it is multiplied by.
        rewards: gives it.
    """

    name: str
    weight: float
    rewards: Rewards


class SummedRewards:
    """A weighted sum of rewards as one function; what each part gave is kept for the log, unweighted.

    Args:
        parts: name, weight and function of each.
    """

    def __init__(self, parts: Sequence[tuple[str, float, RewardFunction]]) -> None:
        self.parts = list(parts)
        self._given: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Return the sum ``[B, K]``."""
        self._given = {name: score(batch) for name, _, score in self.parts}
        return torch.stack([weight * self._given[name] for name, weight, _ in self.parts]).sum(0)

    def metrics(self) -> dict[str, Mean]:
        """Return what each part gave the batch that was scored last, as ``reward/<name>``."""
        return {f"reward/{name}": mean_of(scores) for name, scores in self._given.items()}


def _key_of(function: RewardFunction) -> str:
    """Return a hash of a function's own ``key``, or of its source where it is a plain function of a module."""
    key = getattr(function, "key", None)
    if key is None:
        name = getattr(function, "__qualname__", "<")
        if "<" in name:  # a lambda, a closure or an object, which its source does not tell from its like
            raise UserError(f"reward function {function!r} needs an attribute 'key' that says what it computes")
        key = [function.__module__, name, inspect.getsource(function)]
    return content_hash(key)


class PlantedRewards:
    """A reward of texts (a world's planted one, or one's own) as a function of token ids that stand for them.

    Args:
        gold: the reward of texts.
        tokenizer: turns responses into text, as the evaluation does.
        prompts: text of each prompt, by its token ids.
        key: what decides the rewards.
    """

    def __init__(self, gold: GoldReward, tokenizer: Any, prompts: Mapping[tuple[int, ...], str], key: str) -> None:
        self.gold, self.tokenizer, self.prompts, self.key = gold, tokenizer, prompts, key

    def __call__(self, batch: Batch) -> Tensor:
        """Return the rewards ``[B, K]``; 0 for empty responses.

        Raises:
            UserError: for a prompt that is none of the world's.
        """
        size = batch.response_ids.shape[1]
        prompts, responses = [], []
        for prompt, mask, ids, masks in zip(*(x.tolist() for x in batch.tokens), strict=True):
            tokens = tuple(token for token, real in zip(prompt, mask, strict=True) if real)
            if tokens not in self.prompts:
                raise UserError("the planted reward knows only the world's own prompts")
            prompts += [self.prompts[tokens]] * size
            rows = zip(ids, masks, strict=True)
            responses += [[token for token, real in zip(*row, strict=True) if real] for row in rows]
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]
        rewards = torch.tensor(self.gold(prompts, texts), dtype=torch.float32, device=batch.prompt_ids.device)
        return rewards.reshape(len(batch.prompt_ids), size).masked_fill(~batch.response_mask.any(-1), 0.0)


def texts_of(splits: Iterable[tuple[Dataset, Sequence[EncodedGroup]]]) -> dict[tuple[int, ...], str]:
    """Return the text of each prompt by its token ids; say so where two prompts have the same, as cut ones may."""
    found: dict[tuple[int, ...], str] = {}
    prompts = ((tuple(group.prompt_ids), rows[group.row]["prompt"]) for rows, groups in splits for group in groups)
    alike = {text for ids, text in prompts if found.setdefault(ids, text) != text}
    if alike:
        logger.warning(
            "%d prompts are, as tokens, the same as others (as long_prompts truncate leaves them): a reward of texts "
            "takes them for those others; one is %s",
            len(alike),
            shown(min(alike)),
        )
    return found
