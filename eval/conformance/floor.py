"""The adapter's own floor: how near the optimum the same adapters, schedule and loop come by the exact gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from preflab.data.encoding import EncodedGroup
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
        target: log π*, ``[X, N]``.
        row_of: which row of it is that of a prompt, by the prompt's tokens.
    """

    target: ClassVar[Tensor]
    row_of: ClassVar[Mapping[tuple[int, ...], int]]

    Config = ExactGradientConfig
    needs = Needs(responses="ranking", scores=("policy",))

    def __init__(self, config: ExactGradientConfig) -> None:
        self.config = config

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        """Return KL(π‖π*) of each prompt, ``[B]``."""
        logps = masked_sum(scores.logps, batch.response_mask)
        prompts = zip(batch.prompt_ids, batch.prompt_mask, strict=True)
        rows = [self.row_of[tuple(ids[mask].tolist())] for ids, mask in prompts]
        return Loss((logps.exp() * (logps - self.target.to(logps)[rows])).sum(1))


def exact_gradient(groups: Sequence[EncodedGroup], optimum: Tensor, train: TrainConfig) -> Method:
    """Return the exact gradient towards an optimum ``[X, N]``, that of these X groups, as a method."""
    row_of = {tuple(group.prompt_ids): row for row, group in enumerate(groups)}
    towards = type("ExactGradient", (ExactGradient,), {"target": optimum, "row_of": row_of, "__module__": __name__})
    config = ExactGradientConfig(content_hash(torch.round(optimum, decimals=6).tolist()))
    return Method("exact-gradient", towards, config, train)
