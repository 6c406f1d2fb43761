"""When a trainer's optimiser steps ended; for any `transformers.Trainer`, whichever library it comes from."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

CLOCK = time.process_time if os.environ.get("BENCHMARK_CLOCK") == "processor" else time.perf_counter
"""What is read: the wall's clock, or the seconds that a process's threads were given (for machines that others use)."""


def now() -> float:
    """Return the time in seconds once the accelerator has done all that it was asked to."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCK()


class Clock(TrainerCallback):
    """Notes when training begins and when each step ends, `marks`."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Join every trainer that is made meanwhile."""
        from transformers import trainer

        trainer.DEFAULT_CALLBACKS.append(self)
        try:
            yield
        finally:
            trainer.DEFAULT_CALLBACKS.remove(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin anew."""
        self.marks = [now()]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the end of a step."""
        self.marks.append(now())

    def seconds(self, warm_up: int) -> float:
        """Return seconds per step after so many of warm-up."""
        return (self.marks[-1] - self.marks[warm_up]) / (len(self.marks) - 1 - warm_up)
