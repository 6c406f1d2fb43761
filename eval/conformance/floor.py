"""The adapter's own floor: how near the optimum the same adapters, schedule and loop come by the exact gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from preflab.disk.stages import content_hash
from preflab.method.configured import Method
from preflab.method.contract import Batch, Loss, LossMethod, Needs, Scores
from preflab.method.maths import masked_sum
from preflab.settings.fields import option
from preflab.settings.training import TrainConfig


@dataclass(frozen=True)
class ExactGradientConfig:
    """Fields of the exact gradient."""

    optimum: str = option("", "hash of the optimum, so that each has stages of its own")


class ExactGradient(LossMethod):
    """L = KL(π‖π*), a sum over every response; its gradient is that of −J(π)/β where π* is J's optimum.

    Attributes:
        target: log π*, ``[X, N]``; a group's ``prompt`` says which row is its own.
    """

    target: ClassVar[Tensor]

    Config = ExactGradientConfig
    needs = Needs(responses="ranking", scores=("policy",))

    def __init__(self, config: ExactGradientConfig) -> None:
        self.config = config

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return KL(π‖π*) of each prompt, ``[B]``."""
        logps = masked_sum(scores.logps, batch.response_mask)
        rows = batch.feedback["prompt"].long()
        return Loss((logps.exp() * (logps - self.target.to(logps)[rows])).sum(1))


def exact_gradient(optimum: Tensor, train: TrainConfig) -> Method:
    """Return the exact gradient towards an optimum ``[X, N]`` as a method."""
    towards = type("ExactGradient", (ExactGradient,), {"target": optimum, "__module__": __name__})
    config = ExactGradientConfig(content_hash(torch.round(optimum, decimals=6).tolist()))
    return Method("exact-gradient", towards, config, train)
