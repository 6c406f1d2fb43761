"""What ``comparison.json`` says of the trials that settings were chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A method at one setting, judged on prompts set aside.

    Attributes:
        number: in order; 0 is the configured setting.
        settings: what was tried.
        objective: what it reached; null where it ended without a figure.
        kl: to the reference, nats; null where nobody knows.
        seconds: of training.
        flops: of training; null where they were not counted.
    """

    number: int
    settings: Mapping[str, float]
    objective: float | None
    kl: float | None
    seconds: float | None
    flops: float | None


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How a method's setting was chosen.

    Attributes:
        objective: what the best has most of: ``gold`` reward, or pairs ranked as labelled, ``heldout``.
        prompts: how many were set aside to judge by; no test prompt is among them.
        chosen: number of the best trial.
        trials: all of them.
        importance: share of each setting in what told good trials from bad ones; empty where there were few.
    """

    objective: Literal["gold", "heldout"]
    prompts: int
    chosen: int
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
