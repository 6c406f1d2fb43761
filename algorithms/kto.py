"""Kahneman-Tversky optimisation of single responses, desirable or not (arXiv 2402.01306, eq. 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import Batch, Labels, Loss, LossMethod, Needs, Rollout, Scores, masked_sum, mean_of, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KTOConfig:
    """Fields of KTO."""

    beta: float = option(
        0.1, "scale of the log-ratios: how soon the value of a gain or loss levels off", minimum=1e-6, tuned=(0.2, 5.0)
    )
    desirable_weight: float = option(
        1.0, "λ_D; with n_D desirable and n_U undesirable responses, λ_D n_D / (λ_U n_U) in 1 to 1.5 suits", minimum=0.0
    )
    undesirable_weight: float = option(1.0, "λ_U, its counterpart", minimum=0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class KTOFeedback(Labels):
    """The labels, ``desirable [B]``, and ``kl [B]``: z0, the same for all."""

    desirable: Tensor
    kl: Tensor


class KTO(LossMethod):
    """L = λ_D [1 − σ(β (u − z0))] if desirable, λ_U [1 − σ(β (z0 − u))] if not, with u = log π/π_ref(y|x).

    z0 = max(0, mean of u over the optimiser batch's responses, each to another one's prompt) stands for
    KL(π‖π_ref); no gradient flows through it. It is read before the step, from the whole optimiser batch, so that the
    size of micro-batches changes nothing.

    What it converges to is not known: σ has no finite maximum, and how strongly a response is preferred
    counts only through the share of labels that call it desirable.
    """

    Config = KTOConfig
    needs = Needs(responses="single", scores=("policy", "reference"), rollout=("policy", "reference"))
    metrics = {
        "accuracy": "share of responses whose log-ratio lies on the right side of z0",
        "z0": "what stands for KL(π‖π_ref), nats per response",
        "desirable_logratio": "log-ratio of desirable responses to the reference, nats",
        "undesirable_logratio": "log-ratio of undesirable responses to the reference, nats",
    }

    def __init__(self, config: KTOConfig) -> None:
        self.config = config

    def prepare(self, rollout: Rollout) -> Batch[KTOFeedback]:
        """Estimate z0 from the mismatched responses (index 1) and drop them; the reference's pass is kept."""
        mask = rollout.batch.response_mask
        ratios = masked_sum(rollout.scores.logps - rollout.scores.reference_logps, mask)[:, 1]
        kl = (ratios.sum() / mask[:, 1].any(-1).sum().clamp(min=1)).clamp(min=0.0)
        matched, desirable = rollout.batch.select(mask.new_zeros(len(mask), 1).long()), rollout.batch.feedback.desirable
        if desirable is None:
            raise ValueError("KTO learns from responses that are desirable or not, and the data do not say which")
        return matched.replace(
            feedback=KTOFeedback(desirable=desirable, kl=kl.expand(len(mask))),
            reference_logps=rollout.scores.reference_logps[:, :1].masked_fill(~mask[:, :1], 0.0),
        )

    def loss(self, batch: Batch[KTOFeedback], scores: Scores) -> Loss:
        """Return the loss of each response, ``[B]``; λ/2 where the policy is the reference and z0 is 0."""
        ratio = masked_sum(scores.logps - scores.reference_logps, batch.response_mask)[:, 0]
        kl, desirable = batch.feedback.kl.detach(), batch.feedback.desirable > 0.5
        gain = (ratio - kl).where(desirable, kl - ratio)
        weight = ratio.new_full((), self.config.desirable_weight).where(
            desirable, ratio.new_full((), self.config.undesirable_weight)
        )
        return Loss(
            weight * (-self.config.beta * gain).sigmoid(),
            {
                "accuracy": mean_of(gain > 0),
                "z0": mean_of(kl),
                "desirable_logratio": mean_of(ratio, desirable),
                "undesirable_logratio": mean_of(ratio, ~desirable),
            },
        )
