"""The contract: L(x, {y1 … yk}, r) and the records that cross it.

Shapes use these letters throughout the project:

    B  prompts x in a (micro-)batch        P  prompt tokens, left-padded
    K  responses {y} to one prompt         T  response tokens, right-padded, end token included

This module imports no torch, so that configs can be checked before torch is loaded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from preflab.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Role = Literal["policy", "reference", "reward", "value"]
Unit = Literal["prompt", "response", "token"]
Responses = Literal["demonstration", "single", "pair", "ranking", "sampled"]


class Batch(NamedTuple):
    """x, {y1 … yk} and r for B prompts.

    Offline methods find the responses ordered best first: index 0 is chosen, index 1 rejected. A prompt
    with fewer responses than others has empty ones (no true token) behind its own.

    Attributes:
        prompt_ids: int64 ``[B, P]``, left-padded.
        prompt_mask: bool ``[B, P]``, true on real tokens.
        response_ids: int64 ``[B, K, T]``, right-padded.
        response_mask: bool ``[B, K, T]``, true on real tokens, the end token included.
        feedback: r and what `prepare` derived from it; each tensor ``[B, ...]``. Data sets give, where
            they have it, ``preference [B]`` (probability that index 0 is preferred to index 1), ``margin
            [B]`` (by how much, in units of reward), ``desirable [B]`` (1 or 0) and, of rankings in which responses
            tie, ``rank [B, K]`` (not falling along a row, equal where they tie). ``reference_logps
            [B, K, T]``, if there, stands for the reference policy's pass.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    feedback: dict[str, Tensor] = {}

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def rows(self, index: slice | Tensor) -> Batch:
        """Return some of the prompts, cut to the longest prompt and response among them."""
        return self._map(lambda x: x[index]).trimmed()

    def select(self, index: Tensor) -> Batch:
        """Return the responses at ``index [B, k]`` of each prompt, in that order; no feedback goes along."""
        rows = index.unsqueeze(-1).expand(-1, -1, self.response_ids.shape[-1])
        ids, mask = self.response_ids.gather(1, rows), self.response_mask.gather(1, rows)
        return Batch(self.prompt_ids, self.prompt_mask, ids, mask)

    def emptied(self) -> Batch:
        """Return the batch with every token masked out: nothing to learn from."""
        return self._replace(response_mask=self.response_mask.new_zeros(self.response_mask.shape))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        feedback = {name: change(tensor) for name, tensor in self.feedback.items()}
        return Batch(
            change(self.prompt_ids),
            change(self.prompt_mask),
            change(self.response_ids),
            change(self.response_mask),
            feedback,
        )

    def trimmed(self) -> Batch:
        """Drop columns that are padding in every row."""
        prompt_columns = self.prompt_mask.any(0).nonzero()
        response_columns = self.response_mask.flatten(0, 1).any(0).nonzero()
        start = int(prompt_columns[0]) if len(prompt_columns) else self.prompt_mask.shape[1] - 1
        stop = int(response_columns[-1]) + 1 if len(response_columns) else 1
        width = self.response_ids.shape[-1]
        feedback = {k: v[..., :stop] if v.ndim == 3 and v.shape[-1] == width else v for k, v in self.feedback.items()}
        return Batch(
            self.prompt_ids[:, start:],
            self.prompt_mask[:, start:],
            self.response_ids[..., :stop],
            self.response_mask[..., :stop],
            feedback,
        )


class Scores(NamedTuple):
    """What the roles say of a batch; a field is None where no method asked for it.

    Attributes:
        logps: ``[B, K, T]`` log π(y_t | x, y_<t) under the policy, 0 on padding.
        reference_logps: ``[B, K, T]`` the same under the reference policy.
        values: ``[B, K, T]`` V(x, y_<t), the value of the state in which y_t is chosen.
        rewards: ``[B, K]`` score of the reward model, read at the last response token.
    """

    logps: Tensor | None = None
    reference_logps: Tensor | None = None
    values: Tensor | None = None
    rewards: Tensor | None = None


class Rollout(NamedTuple):
    """Responses, and what the roles of `Needs.rollout` say of them before anything is learnt from them.

    On-policy methods get all responses sampled from the policy as it is now; offline methods that ask for
    it get the responses of one optimiser batch.

    Attributes:
        batch: prompts and responses; sampled ones bear no feedback yet but ``sampler_logps [B, K, T]``, where
            another engine drew them than scores: its log-probabilities, 0 on padding.
        scores: the roles of `Needs.rollout`; ``logps`` are then those of the behaviour policy.
        ended: bool ``[B, K]``, false where a sampled response was cut at the length limit.
    """

    batch: Batch
    scores: Scores
    ended: Tensor


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
    metrics: dict[str, Mean] = {}


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
            task: a `preflab.training.trainer.Task`.

        Returns:
            a `preflab.training.trainer.TrainRecord`.
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
