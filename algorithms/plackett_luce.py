"""DPO on ranked responses by the Plackett-Luce model (arXiv 2305.18290, appendix A.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflab import (
    Batch,
    Labels,
    Loss,
    LossMethod,
    Needs,
    Scores,
    kl_regularised_optimum,
    masked_sum,
    mean_of,
    option,
    plackett_luce,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PlackettLuceConfig:
    """Fields of listwise DPO."""

    beta: float = option(0.1, "strength of the pull towards the reference policy", minimum=1e-6, tuned=(0.2, 5.0))


class PlackettLuce(LossMethod):
    """L = −Σ_k [s_k − log Σ_{j ≥ k} e^{s_j}] with s = β log π/π_ref of the responses, best first.

    For two responses this is DPO. Converges to π* ∝ π_ref exp(r/β) where rankings follow Plackett-Luce in r. Where the
    data say that responses tie, j runs over all that are ranked no better than k.
    """

    Config = PlackettLuceConfig
    needs = Needs(responses="ranking", scores=("policy", "reference"))
    metrics = {
        "accuracy": "share of untied neighbours whose better one has the larger log-ratio to the reference",
        "margin": "log-ratio of the better neighbour minus that of the worse, nats",
        "best_logps": "log π(best), nats per response; falls with the next one: likelihood displacement",
        "worst_logps": "log π(worst), nats per response",
    }

    def __init__(self, config: PlackettLuceConfig) -> None:
        self.config = config

    def loss(self, batch: Batch[Labels], scores: Scores) -> Loss:
        """Return the loss of each ranking, ``[B]``; log K! where the policy is the reference."""
        mask = batch.response_mask
        logps, present = masked_sum(scores.logps, mask), mask.any(-1)
        ratios = logps - masked_sum(scores.reference_logps, mask)
        rank = batch.feedback.rank
        margins, neighbours = ratios[:, :-1] - ratios[:, 1:], present[:, 1:]
        if rank is not None:
            neighbours = neighbours & (rank[:, 1:] != rank[:, :-1])
        worst = logps.gather(1, present.sum(-1, keepdim=True).clamp(min=1) - 1)
        return Loss(
            plackett_luce(self.config.beta * ratios, present, rank),
            {
                "accuracy": mean_of(margins > 0, neighbours),
                "margin": mean_of(margins, neighbours),
                "best_logps": mean_of(logps[:, 0], present[:, 0]),
                "worst_logps": mean_of(worst.squeeze(1), present[:, 0]),
            },
        )

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π* of the KL-regularised objective, ``[B, K]``."""
        mask = batch.response_mask
        reference = masked_sum(scores.reference_logps, mask)
        return kl_regularised_optimum(reference, scores.rewards, self.config.beta, mask.any(-1))
