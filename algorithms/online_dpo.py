"""Online DPO: pairs sampled from the policy, labelled by the reward model (arXiv 2402.04792).

One pass over small rollouts (the default) is online DPO; several passes over large ones, taken a few
times, are iterative DPO (2312.11456). Of k > 2 samples the best and the worst are taken.

With soft labels it converges to the KL-regularised optimum π* ∝ π_ref exp(r/β), for any k: the loss of each
pair is least where β times its margin is r(y_w) − r(y_l). With hard labels nobody knows: they say nothing of
by how much, and the margin of a pair that is always labelled alike grows as long as training lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from preflab import Batch, Labels, Loss, Needs, Rollout, RolloutConfig, Scores, kl_k3, mean_of, option
from preflab.algorithms.dpo import DPO, DPOConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OnlineDPOConfig(DPOConfig, RolloutConfig):
    """Fields of online DPO: those of DPO and of every on-policy method."""

    samples_per_prompt: int = option(2, "k: responses per prompt; the best and the worst make the pair", minimum=2)
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)
    labels: Literal["hard", "soft"] = option(
        "hard", "hard: the higher score is preferred; soft: with probability σ(difference of the scores)"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineDPOFeedback(Labels):
    """The labels, ``preference [B]``, and ``behaviour_logps [B, 2, T]``, log π_old."""

    behaviour_logps: Tensor


class OnlineDPO(DPO):
    """L = DPO's loss of (y_w, y_l), the best and worst by r of k samples y ~ π(·|x)."""

    Config: ClassVar[Any] = OnlineDPOConfig
    needs = Needs(responses="sampled", scores=("policy", "reference"), rollout=("policy", "reference", "reward"))
    training = {}
    metrics = {
        **DPO.metrics,
        "approx_kl": "k3 estimate of KL(π_old‖π) on the pairs, nats per token",
    }

    def prepare(self, rollout: Rollout) -> Batch[OnlineDPOFeedback]:
        """Pick and label the pairs.

        A pair of equal scores bears no hard label: it is emptied, and counts for nothing. The reference is not run
        again.
        """
        behaviour, reference, rewards = rollout.scores.logps, rollout.scores.reference_logps, rollout.scores.rewards
        pair = rewards.argsort(dim=1, descending=True, stable=True)[:, [0, -1]]
        batch, (best, worst) = rollout.batch.select(pair), rewards.gather(1, pair).unbind(1)
        rows = pair.unsqueeze(-1).expand(-1, -1, reference.shape[-1])
        soft, mask = self.config.labels == "soft", batch.response_mask
        preference = (best - worst).sigmoid() if soft else rewards.new_ones(len(rewards))
        return batch.replace(
            response_mask=mask if soft else mask & (best > worst)[:, None, None],
            feedback=OnlineDPOFeedback(preference=preference, behaviour_logps=behaviour.gather(1, rows)),
            reference_logps=reference.gather(1, rows),
        )

    def loss(self, batch: Batch[OnlineDPOFeedback], scores: Scores) -> Loss:
        """Return the loss of each pair, ``[B]``."""
        loss = super().loss(batch, scores)
        drift = mean_of(kl_k3(batch.feedback.behaviour_logps, scores.logps), batch.response_mask)
        return loss._replace(metrics={**loss.metrics, "approx_kl": drift})

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return log π* of DPO where labels are soft and the reference stays, else None."""
        known = self.config.labels == "soft" and not self.config.reference_mixup
        return super().optimum(batch, scores) if known else None
