"""The records that cross the contract: x, {y1 … yk} and r go in, scores of them besides, and a loss comes out.

Shapes use these letters throughout the project:

    B  prompts x in a (micro-)batch        P  prompt tokens, left-padded
    K  responses {y} to one prompt         T  response tokens, right-padded, end token included

No torch at import time (see `preflab.method.contract`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from preflab.method.feedback import Feedback, Labels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FeedbackT = TypeVar("FeedbackT", bound=Feedback, covariant=True)

Role = Literal["policy", "reference", "reward", "value"]
Unit = Literal["prompt", "response", "token"]
Responses = Literal["demonstration", "single", "pair", "ranking", "sampled"]


NOTHING_SAID: Any = Labels()


@dataclass(frozen=True, eq=False)
class Batch(Generic[FeedbackT]):
    """x, {y1 … yk} and r for B prompts.

    Offline methods find the responses ordered best first: index 0 is chosen, index 1 rejected. A prompt
    with fewer responses than others has empty ones (no true token) behind its own.

    Attributes:
        prompt_ids: int64 ``[B, P]``, left-padded.
        prompt_mask: bool ``[B, P]``, true on real tokens.
        response_ids: int64 ``[B, K, T]``, right-padded.
        response_mask: bool ``[B, K, T]``, true on real tokens, the end token included.
        feedback: what the data say (`Labels`), or what a method's `prepare` made of scores: a `Feedback` of its own.
        reference_logps: ``[B, K, T]``, scores at hand, in place of the reference policy's pass; None: it is made.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    feedback: FeedbackT = NOTHING_SAID
    reference_logps: Tensor | None = None

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids and masks of prompts, and of responses."""
        return self.prompt_ids, self.prompt_mask, self.response_ids, self.response_mask

    def replace(self, **fields: Any) -> Batch[Any]:
        """Return the batch with some fields replaced."""
        return replace(self, **fields)

    def to(self, device: torch.device | str) -> Batch[FeedbackT]:
        """Return the batch on `device`."""
        # A copy to the CPU that nobody waits for could be read before it is there.
        no_wait = str(device) != "cpu"
        return self.changed(lambda x: x.to(device, non_blocking=no_wait))

    def rows(self, index: slice | Tensor) -> Batch[FeedbackT]:
        """Return some of the prompts, cut to the longest prompt and response among them."""
        return self.changed(lambda x: x[index]).trimmed()

    def select(self, index: Tensor) -> Batch[Labels]:
        """Return the responses at ``index [B, k]`` of each prompt, in that order; nothing else goes along."""
        rows = index.unsqueeze(-1).expand(-1, -1, self.response_ids.shape[-1])
        ids, mask = self.response_ids.gather(1, rows), self.response_mask.gather(1, rows)
        return Batch(self.prompt_ids, self.prompt_mask, ids, mask)

    def emptied(self) -> Batch[FeedbackT]:
        """Return the batch with every token masked out: nothing to learn from."""
        return self.replace(response_mask=self.response_mask.new_zeros(self.response_mask.shape))

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch[FeedbackT]:
        """Return the batch with every tensor changed."""
        return Batch(
            change(self.prompt_ids),
            change(self.prompt_mask),
            change(self.response_ids),
            change(self.response_mask),
            self.feedback.changed(change),
            None if self.reference_logps is None else change(self.reference_logps),
        )

    def trimmed(self) -> Batch[FeedbackT]:
        """Drop columns that are padding in every row."""
        prompt_columns = self.prompt_mask.any(0).nonzero()
        response_columns = self.response_mask.flatten(0, 1).any(0).nonzero()
        start = int(prompt_columns[0]) if len(prompt_columns) else self.prompt_mask.shape[1] - 1
        stop = int(response_columns[-1]) + 1 if len(response_columns) else 1
        width = self.response_ids.shape[-1]

        def cut(x: Tensor) -> Tensor:
            return x[..., :stop] if x.ndim == 3 and x.shape[-1] == width else x

        trimmed = self.changed(cut)
        return trimmed.replace(prompt_ids=self.prompt_ids[:, start:], prompt_mask=self.prompt_mask[:, start:])


FIELDS: Mapping[Role, str] = MappingProxyType(
    {"policy": "logps", "reference": "reference_logps", "value": "values", "reward": "rewards"}
)
"""Which field of `Scores` each role fills."""


class _Scored(NamedTuple):
    logps: Tensor | None = None
    reference_logps: Tensor | None = None
    values: Tensor | None = None
    rewards: Tensor | None = None


class Scores(_Scored):
    """What the roles say of a batch: those that `Needs.scores` names, or `Needs.rollout` for a rollout.

    Whoever reads what no role was asked for is told so. As a tuple it holds None there.

    Attributes:
        logps: ``[B, K, T]`` log π(y_t | x, y_<t) under the policy, 0 on padding.
        reference_logps: ``[B, K, T]`` the same under the reference policy.
        values: ``[B, K, T]`` V(x, y_<t), the value of the state in which y_t is chosen.
        rewards: ``[B, K]`` score of the reward model, read at the last response token.
    """

    __slots__ = ()

    def of(self, role: Role) -> Tensor | None:
        """Return what a role says, None if it was not asked."""
        return dict(zip(FIELDS, self, strict=True))[role]

    def _asked(self, role: Role) -> Tensor:
        found = self.of(role)
        if found is None:
            raise LookupError(
                f"there are no {FIELDS[role]}: Needs.scores (in prepare: Needs.rollout) names no {role!r}"
            )
        return found

    @property
    def logps(self) -> Tensor:
        """Log π(y_t | x, y_<t), ``[B, K, T]``. Raises LookupError, as all do, where the role was not asked."""
        return self._asked("policy")

    @property
    def reference_logps(self) -> Tensor:
        """Log π_ref(y_t | x, y_<t), ``[B, K, T]``."""
        return self._asked("reference")

    @property
    def values(self) -> Tensor:
        """V(x, y_<t), ``[B, K, T]``."""
        return self._asked("value")

    @property
    def rewards(self) -> Tensor:
        """Scores of the reward model, ``[B, K]``."""
        return self._asked("reward")


class Rollout(NamedTuple):
    """Responses, and what the roles of `Needs.rollout` say of them before anything is learnt from them.

    On-policy methods get all responses sampled from the policy as it is now; offline methods that ask for
    it get the responses of one optimiser batch.

    Attributes:
        batch: prompts and responses; sampled ones bear no feedback yet.
        scores: the roles of `Needs.rollout`; ``logps`` are then those of the behaviour policy.
        ended: bool ``[B, K]``, false where a sampled response was cut at the length limit.
        sampler_logps: ``[B, K, T]``, where another engine drew the responses than scores them: its
            log-probabilities, 0 on padding.
    """

    batch: Batch[Labels]
    scores: Scores
    ended: Tensor
    sampler_logps: Tensor | None = None


class Mean(NamedTuple):
    """A metric as sum and number of items, so that micro-batches and ranks combine exactly."""

    total: Tensor
    items: Tensor


class Loss(NamedTuple):
    """An unreduced loss.

    Attributes:
        values: ``[B]``, ``[B, K]`` or ``[B, K, T]`` as `Needs.unit` says; padding is ignored.
        metrics: named means to log; names are those the algorithm declares.
    """

    values: Tensor
    metrics: Mapping[str, Mean] = MappingProxyType({})


def unit_mask(batch: Batch, unit: Unit) -> Tensor:
    """Return the bool mask of the items a loss of this unit is averaged over.

    ``[B]`` for prompts, ``[B, K]`` for responses, ``[B, K, T]`` for tokens. Prompts and responses
    without a single token count as padding.
    """
    if unit == "token":
        return batch.response_mask
    present = batch.response_mask.any(-1)
    return present if unit == "response" else present.any(-1)


def mean_of(values: Tensor, mask: Tensor | None = None) -> Mean:
    """Return a metric over `values` where `mask` (same shape, bool) is true; detached."""
    values = values.detach().float()
    if mask is None:
        return Mean(values.sum(), values.new_tensor(values.numel()))
    return Mean(values.masked_fill(~mask, 0.0).sum(), mask.sum().to(values.dtype))
