"""The contract: L(x, {y1 … yk}, r), what a method asks for, and the three kinds of methods.

This module imports no torch, so that configs can be checked before torch is loaded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from preflab.errors import UserError
from preflab.method.feedback import Feedback, Labels
from preflab.method.records import (
    Batch,
    Loss,
    Mean,
    Responses,
    Role,
    Rollout,
    Scores,
    Unit,
    mean_of,
    unit_mask,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Algorithm",
    "Batch",
    "DecoderMethod",
    "Feedback",
    "KnownOptimum",
    "Labels",
    "Loss",
    "LossMethod",
    "Mean",
    "Needs",
    "Prepares",
    "Responses",
    "Role",
    "Rollout",
    "Scores",
    "TrainerMethod",
    "Unit",
    "decoder_of",
    "mean_of",
    "unit_mask",
]


@dataclass(frozen=True)
class Needs:
    """What a method asks of the loop.

    Attributes:
        responses: where {y} comes from. ``demonstration``: one response. ``single``: one response that is
            ``desirable`` or not, and at index 1 another prompt's response, which says nothing of x (for
            estimates of KL(π‖π_ref)). ``pair``: chosen and rejected. ``ranking``: all ranked responses of
            the prompt, best first, 2 or more. ``sampled``: drawn from the policy.
        scores: the roles whose scores the loss reads.
        trains: the roles that learn; the first is the one the method is judged by.
        rollout: the roles that score each response once, without gradient, before `prepare`.
        unit: what the trainer averages over: prompts (pairs), responses or tokens.
        joint: the value is a head on the policy's own adapter, which then learns from both losses.
        separable: what each learning role's gradient is does not hang on the other learning roles' scores, as in
            a sum of a policy's loss and a value's. The loop then saves a pass: those scores may be zeros where
            another role's gradient is asked for.
    """

    responses: Responses
    scores: tuple[Role, ...]
    trains: tuple[Role, ...] = ("policy",)
    rollout: tuple[Role, ...] = ()
    unit: Unit = "prompt"
    joint: bool = False
    separable: bool = False

    def uses(self, role: Role) -> bool:
        """Whether the method reads a role at all."""
        return role in self.scores or role in self.rollout


class Common(Protocol):
    """What every method of preference alignment has, of whichever kind.

    A method inherits the kind that it is, or a base of that kind (`Pairwise`, `PolicyGradient`), and defines what
    differs. Only `Config`, `needs`, `__init__` and what the kind asks for have no default.

    Attributes:
        Config: frozen dataclass whose fields become YAML keys and command-line options.
        needs: what it asks of the loop; may follow from the config.
        training: defaults of `TrainConfig` that it overrides.
        metrics: each logged name, and one line that explains it.
        config: what it was made with.
    """

    Config: ClassVar[type]
    needs: Needs
    training: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    metrics: Mapping[str, str] = MappingProxyType({})
    config: Any

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Keep the config as ``self.config``."""

    @property
    def label_noise(self) -> float:
        """Share of labels it takes to be flipped, which the data of its conformance runs then are."""
        return 0.0

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π*(y|x), ``[B, K]``, where theory knows it, else None; conformance runs hold the method to it.

        Args:
            batch: every possible response to each prompt, K of them (shorter sets are masked out).
            scores: ``reference_logps [B, K, T]`` and the true ``rewards [B, K]``, in float64.
        """
        return None


@runtime_checkable
class LossMethod(Common, Protocol):
    """A method that is a loss: where {y} comes from, what r is, and which L. The loop does the rest.

    Attributes:
        state: what `prepare` carries from one rollout to the next, kept in checkpoints.
    """

    kind: ClassVar[Literal["loss"]] = "loss"
    state: Mapping[str, float] = MappingProxyType({})

    def prepare(self, rollout: Rollout) -> Batch:
        """Turn a whole rollout into a batch whose feedback is all that `loss` reads.

        To be defined where `Needs.rollout` names roles: by all on-policy methods, and a few others.
        """
        raise UserError(f"{type(self).__name__} is given rollouts, and defines no prepare that takes them")

    @abstractmethod
    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return the unreduced loss; a pure function of its arguments."""


@runtime_checkable
class TrainerMethod(Common, Protocol):
    """A method that brings a trainer of its own in place of the loop. Its types stand on higher floors than this.

    Attributes:
        native: the method that it trains by other means, if there is one: what is said of that one holds here too.
    """

    kind: ClassVar[Literal["trainer"]] = "trainer"
    native: ClassVar[type[LossMethod] | None] = None

    @abstractmethod
    def fit(self, task: Any) -> Any:
        """Train, and leave the weights in ``task.roles``.

        Args:
            task: a `preflab.training.task.Task`.

        Returns:
            a `preflab.training.task.TrainRecord`.
        """

    def check_budget(self, budget: Any) -> None:
        """See that the trainer ends where a budget (`preflab.training.budget.Budget`) does.

        Raises:
            UserError: if it does not; so does every trainer that does not say otherwise.
        """
        raise UserError(f"{type(self).__name__} brings a trainer that is held to no budget; leave the budget out")


@runtime_checkable
class DecoderMethod(Common, Protocol):
    """A method that trains nothing: the policy it starts from, with something made of its samples."""

    kind: ClassVar[Literal["decoder"]] = "decoder"

    @abstractmethod
    def decode(self, sampler: Any) -> Any:
        """Return the `preflab.sampling.sampler.Decoder` that the method is judged by.

        Args:
            sampler: a `preflab.sampling.sampler.Sampler`, which draws from the policy.
        """


Algorithm = LossMethod | TrainerMethod | DecoderMethod
"""A method of preference alignment; ``kind`` says which of the three it is."""


def decoder_of(algorithm: Algorithm) -> Callable[[Any], Any] | None:
    """Return what makes the decoder that a method is judged by; None where plain samples are."""
    return algorithm.decode if algorithm.kind == "decoder" else None


@runtime_checkable
class Prepares(Protocol):
    """Whatever turns rollouts into batches (see `LossMethod.prepare`)."""

    config: Any

    def prepare(self, rollout: Rollout) -> Batch:
        """Turn a whole rollout into a batch whose feedback is all that `loss` reads."""
        ...


@runtime_checkable
class KnownOptimum(Protocol):
    """Whatever says where it converges to (see `Common.optimum`)."""

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π*(y|x), ``[B, K]``, where theory knows it, else None."""
        ...
