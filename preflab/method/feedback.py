"""r, as a loss reads it: what data sets say, or what a `prepare` made of scores (shapes: `preflab.method.records`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Same = TypeVar("Same", bound="Feedback")


@dataclass(frozen=True, eq=False)
class Feedback:
    """r, and what `prepare` derives from it: all that a loss reads beside tokens and scores.

    Base of frozen dataclasses whose fields are tensors ``[B, ...]``, or None. The loop cuts, moves and shuffles them
    with the rows of their batch; whatever has three axes is ``[B, K, T]``, and is trimmed along with the responses.
    """

    def changed(self: Same, change: Callable[[Tensor], Tensor]) -> Same:
        """Return the feedback with every tensor changed."""
        return replace(self, **{name: change(x) for name, x in self.fields().items() if x is not None})

    def fields(self) -> dict[str, Any]:
        """Return each field that it is made with by its name, those with slots too."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}


@dataclass(frozen=True, eq=False)
class Labels(Feedback):
    """What data sets say; None where they do not.

    Attributes:
        preference: ``[B]``, probability that index 0 is preferred to index 1.
        margin: ``[B]``, by how much, in units of reward.
        desirable: ``[B]``, 1 or 0.
        rank: ``[B, K]``, of rankings in which responses tie: not falling along a row, equal where they tie.
    """

    preference: Tensor | None = None
    margin: Tensor | None = None
    desirable: Tensor | None = None
    rank: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Behaviour(Feedback):
    """What every policy gradient's loss reads of the rollout that it learns from.

    Attributes:
        behaviour_logps: ``[B, K, T]`` log π_old, of the policy that drew the responses.
        reference_logps: ``[B, K, T]`` log π_ref, for a KL in the loss.
        kl_coefficient: ``[B]`` β, the same for all.
        importance_weights: of actions, ``[B, K]`` or ``[B, K, T]``: min(π_old/π_engine, cap), truncated importance
            sampling (Ionides 2008); 1 where no other engine drew the responses.
    """

    behaviour_logps: Tensor
    reference_logps: Tensor
    kl_coefficient: Tensor
    importance_weights: Tensor


@dataclass(frozen=True, eq=False)
class PolicyFeedback(Behaviour):
    """A `Behaviour` and the ``advantages`` of its actions, ``[B, K]`` or ``[B, K, T]``."""

    advantages: Tensor


@dataclass(frozen=True, eq=False)
class ActorCriticFeedback(PolicyFeedback):
    """Advantages of tokens, and what the value learns from; each ``[B, K, T]``, 0 on padding.

    Attributes:
        behaviour_values: V when the rollout was drawn.
        returns: R.
        return_deviation: R − mean R over the rollout.
    """

    behaviour_values: Tensor
    returns: Tensor
    return_deviation: Tensor
