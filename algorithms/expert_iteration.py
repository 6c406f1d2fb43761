"""Expert iteration: maximum likelihood of the policy's own best samples (RAFT, arXiv 2304.06767).

With a threshold in place of a count, ReST^EM (2312.06585): keep = k, threshold = what counts as right.

Converges to no KL-regularised optimum. A rollout fitted perfectly turns π into its best-of-k, and the best of
k samples of best-of-m is best-of-km: T rounds tend to best-of-k^T of the start (keep = 1), and so to the
highest reward the start can produce, its diversity lost. Only the number of steps stops that; KL <= T log k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from preflab import Batch, Feedback, Loss, Needs, Rollout, RolloutConfig, Scores, kl_k3, mean_of, option
from preflab.algorithms.sft import SFT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExpertIterationConfig(RolloutConfig):
    """Fields of expert iteration, beside those of every on-policy method."""

    samples_per_prompt: int = option(4, "k: responses per prompt", minimum=1)
    keep: int = option(1, "the best so many of each prompt are learnt", minimum=1)
    threshold: float | None = option(None, "kept responses with a lower reward are dropped; none: all stay")
    above_mean: bool = option(False, "kept responses must score above the mean of their prompt's k")
    rollout_epochs: int = option(1, "passes over each rollout before the next is sampled", minimum=1)

    def __post_init__(self) -> None:
        if self.keep > self.samples_per_prompt:
            raise ValueError(
                f"keep ({self.keep}) exceeds samples_per_prompt ({self.samples_per_prompt}); lower it, or sample more"
            )


@dataclass(frozen=True, eq=False)
class KeptFeedback(Feedback):
    """Of the responses kept, ``reward [B, keep]`` and ``behaviour_logps [B, keep, T]``, log π_old."""

    reward: Tensor
    behaviour_logps: Tensor


class ExpertIteration(SFT):
    """L = −log π(y_t | x, y_<t) of the `keep` responses with the highest r out of k samples y ~ π_old(·|x)."""

    config: Any
    Config = ExpertIterationConfig  # type: ignore[assignment]
    needs = Needs(responses="sampled", scores=("policy",), rollout=("policy", "reference", "reward"), unit="token")
    training = {"learning_rate": 1e-3}
    metrics = {
        **SFT.metrics,
        "approx_kl": "k3 estimate of KL(π_old‖π) on the responses learnt from, nats per token",
        "kept_reward": "reward of the responses learnt from; its lead over the rollout's reward is the selection",
    }

    def prepare(self, rollout: Rollout) -> Batch[KeptFeedback]:
        """Keep the best; what is dropped is emptied."""
        config, behaviour, rewards = self.config, rollout.scores.logps, rollout.scores.rewards
        best = rewards.argsort(dim=1, descending=True, stable=True)[:, : config.keep]
        batch, kept = rollout.batch.select(best), rewards.gather(1, best)
        good = batch.response_mask.any(-1)
        if config.threshold is not None:
            good &= kept >= config.threshold
        if config.above_mean:
            good &= kept > rewards.mean(1, keepdim=True)
        rows = best.unsqueeze(-1).expand(-1, -1, behaviour.shape[-1])
        feedback = KeptFeedback(reward=kept, behaviour_logps=behaviour.gather(1, rows))
        return batch.replace(response_mask=batch.response_mask & good.unsqueeze(-1), feedback=feedback)

    def loss(self, batch: Batch[KeptFeedback], scores: Scores) -> Loss:
        """Return −log π of each token, ``[B, K, T]``."""
        loss = super().loss(batch, scores)
        metrics = {
            "approx_kl": mean_of(kl_k3(batch.feedback.behaviour_logps, scores.logps), batch.response_mask),
            "kept_reward": mean_of(batch.feedback.reward, batch.response_mask.any(-1)),
        }
        return loss._replace(metrics={**loss.metrics, **metrics})
