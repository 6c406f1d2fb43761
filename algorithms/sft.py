"""Supervised fine-tuning: maximum likelihood of demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

from preflab import Batch, Loss, LossMethod, Needs, Scores, mean_of


@dataclass(frozen=True)
class SFTConfig:
    """SFT has no fields of its own."""


class SFT(LossMethod):
    """L = −log π(y_t | x, y_<t), averaged over the response tokens of the optimiser batch.

    Converges to the distribution that the demonstrations are drawn from, as far as the adapters can express it.
    """

    Config = SFTConfig
    needs = Needs(responses="demonstration", scores=("policy",), unit="token")
    training = {"learning_rate": 1e-3}
    metrics = {"nll": "negative log-likelihood, nats per response token"}

    def __init__(self, config: SFTConfig) -> None:
        self.config = config

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return −log π of each token, ``[B, K, T]``."""
        return Loss(-scores.logps, {"nll": mean_of(-scores.logps, batch.response_mask)})
