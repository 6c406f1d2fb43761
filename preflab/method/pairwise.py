"""What the pairwise preference methods share: everything but their loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.errors import UserError
from preflab.method.contract import Batch, Loss, LossMethod, Needs, Scores, mean_of, unit_mask
from preflab.method.maths import masked_sum
from preflab.method.plugins import place_of

if TYPE_CHECKING:
    from torch import Tensor


class Pair(NamedTuple):
    """Chosen (index 0) and rejected (index 1) responses of each prompt; every field ``[B, 2]``.

    Attributes:
        logps: log π(y|x), summed over tokens.
        reference_logps: log π_ref(y|x), summed over tokens; 0 where the method asks for no reference.
        lengths: response lengths in tokens, the end token included.
    """

    logps: Tensor
    reference_logps: Tensor
    lengths: Tensor

    @property
    def logratios(self) -> Tensor:
        """Log-ratio log π(y|x) − log π_ref(y|x), ``[B, 2]``."""
        return self.logps - self.reference_logps

    @property
    def margin(self) -> Tensor:
        """Log-ratio of chosen minus that of rejected, ``[B]``: h of the IPO paper, DPO's argument over β."""
        return self.logratios[:, 0] - self.logratios[:, 1]

    @property
    def mean_margin(self) -> Tensor:
        """Log-ratio per token of chosen minus that of rejected, ``[B]``."""
        mean = self.logratios / self.lengths.clamp(min=1)
        return mean[:, 0] - mean[:, 1]

    @property
    def mean_logps(self) -> Tensor:
        """Log-likelihood per token, ``[B, 2]``."""
        return self.logps / self.lengths.clamp(min=1)

    def swapped(self) -> Pair:
        """Return the pair as if the other response had been preferred."""
        return Pair(*(field.flip(-1) for field in self))


class Pairwise(LossMethod):
    """Base of methods whose loss reads a `Pair`: define ``Config`` and `pair_loss`, nothing else.

    Where the data say how sure a preference is (``preference``, the probability p that chosen is
    preferred), the loss of a pair is p L(chosen, rejected) + (1 − p) L(rejected, chosen).
    """

    needs = Needs(responses="pair", scores=("policy", "reference"))
    metrics: Mapping[str, str] = {
        "accuracy": "share of pairs whose chosen response has the larger log-ratio to the reference (to 1 without one)",
        "margin": "log-ratio of chosen minus that of rejected, nats",
        "chosen_logps": "log π(chosen), nats per response; falls with the next one: likelihood displacement",
        "rejected_logps": "log π(rejected), nats per response",
    }

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def pair_loss(self, pair: Pair) -> Tensor:
        """Return the loss of each pair, ``[B]``."""

    def certainty(self, preference: Tensor) -> Tensor:
        """Return the weight of the pair as labelled, ``[B]``, given ``preference [B]``; 1 − it goes to the other order.

        Methods that doubt the labels themselves (label smoothing) override this.
        """
        return preference

    def _losses(self, pair: Pair) -> Tensor:
        """Return `pair_loss`, held to its shape: a mean over pairs would be spread over all of them again."""
        import torch

        values = self.pair_loss(pair)
        if not isinstance(values, torch.Tensor) or values.shape != pair.margin.shape:
            found = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
            raise UserError(
                f"{type(self).__name__}.pair_loss returned {found}; it must be a tensor of one loss for each pair, "
                f"{tuple(pair.margin.shape)}{place_of(type(self).pair_loss)}"
            )
        return values

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Sum log-probabilities over each response and hand the pairs to `pair_loss`."""
        if batch.response_ids.shape[1] != 2:
            raise ValueError(f"a pairwise loss needs 2 responses a prompt, got {batch.response_ids.shape[1]}")
        mask = batch.response_mask
        logps = masked_sum(scores.logps, mask)
        reference = logps.new_zeros(logps.shape)
        if "reference" in self.needs.scores:
            reference = masked_sum(scores.reference_logps, mask)
        pair = Pair(logps, reference, mask.sum(-1))
        preference = batch.feedback.preference
        weight = self.certainty(logps.new_ones(len(logps)) if preference is None else preference)
        values = weight * self._losses(pair)
        if (weight != 1).any():
            values = values + (1 - weight) * self._losses(pair.swapped())
        present = unit_mask(batch, "prompt")
        return Loss(
            values,
            {
                "accuracy": mean_of(pair.margin > 0, present),
                "margin": mean_of(pair.margin, present),
                "chosen_logps": mean_of(pair.logps[:, 0], present),
                "rejected_logps": mean_of(pair.logps[:, 1], present),
            },
        )
