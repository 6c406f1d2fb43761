"""What a training run is given where a method brings its own trainer, and what any run cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preflab.data.encoding import EncodedGroup
from preflab.model.roles import Roles
from preflab.settings.training import TrainConfig


class TrainRecord(NamedTuple):
    """What a training run cost.

    Attributes:
        steps: optimiser steps taken.
        seconds: wall time of training, loading excluded.
        tokens: prompt and response tokens that went through a training pass.
        sampled_tokens: response tokens drawn from the policy.
        peak_memory_bytes: peak resident memory of the process (allocated memory on CUDA); of several, of the first.
        final: the last logged metrics.
        trained_tokens: response tokens that went through a training pass.
        prompts: prompts that went through one; like tokens, as often as they did.
        responses: responses that did.
        pairs: prompts that did whose loss compares two or more responses.
        flops: of every pass, sampling and the other roles' included (see ``docs/budgets.md``).
        validation: what was looked at on the way, and the seconds it took, which are in no other figure; None: nothing.

    None stands for what a trainer brought along by a method does not tell.
    """

    steps: int
    seconds: float
    tokens: int
    sampled_tokens: int
    peak_memory_bytes: int
    final: dict[str, float]
    trained_tokens: int | None = None
    prompts: int | None = None
    responses: int | None = None
    pairs: int | None = None
    flops: int | None = None
    validation: dict[str, float] | None = None


UNTRAINED = TrainRecord(steps=0, seconds=0.0, tokens=0, sampled_tokens=0, peak_memory_bytes=0, final={})
"""What a method that trains nothing spends."""

COUNTS = ("tokens", "trained_tokens", "prompts", "responses", "pairs")


class Task(NamedTuple):
    """What a method that brings a trainer of its own (`fit`) is given.

    Attributes:
        roles: the roles at their starting points; `fit` leaves the trained weights in them.
        groups: encoded rows of the offline data; empty where responses are sampled.
        train: the optimiser's loop.
        tokenizer: the base's tokenizer.
        folder: where to write; kept with the stage.
        seed: decides the order of the data.
        title: what to call the run where progress is shown.
        prompts: token ids of the prompts, for methods that sample.
        max_response_tokens: length limit of what they sample.
        snapshots: how many times to keep the trained role's weights on the way (see `preflab.training.snapshots`).
        end_ids: the tokens that end a response; the tokenizer's alone where none are given.
    """

    roles: Roles
    groups: list[EncodedGroup]
    train: TrainConfig
    tokenizer: Any
    folder: Path
    seed: int
    title: str
    prompts: Sequence[list[int]] = ()
    max_response_tokens: int = 128
    snapshots: int = 0
    end_ids: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a response."""
        return self.end_ids or (self.tokenizer.eos_token_id,)
