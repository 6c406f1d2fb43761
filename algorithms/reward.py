"""Reward modelling by Bradley-Terry (arXiv 1706.03741; 2203.02155, eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from preflab import Batch, Loss, Needs, Scores, log_sigmoid, mean_of


@dataclass(frozen=True)
class RewardConfig:
    """The Bradley-Terry loss has no fields of its own."""


class Reward:
    """L = −log σ(r(x, chosen) − r(x, rejected)); r is read at the last response token."""

    Config = RewardConfig
    needs: ClassVar[Needs] = Needs(responses="pair", scores=("reward",), trains=("reward",))
    training: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3}
    metrics: ClassVar[Mapping[str, str]] = {
        "accuracy": "share of pairs whose chosen response scores higher",
        "margin": "score of chosen minus score of rejected",
    }

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return the loss of each pair, ``[B]``; log 2 where both score the same."""
        assert scores.rewards is not None
        margin = scores.rewards[:, 0] - scores.rewards[:, 1]
        return Loss(-log_sigmoid(margin), {"accuracy": mean_of(margin > 0), "margin": mean_of(margin)})
