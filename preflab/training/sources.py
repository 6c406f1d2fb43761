"""Batch sources: where the loop's micro-batches come from. The loop cannot tell them apart.

A source is a pure function of its seed and the optimiser step: it can start anywhere, so that an
interrupted run goes on where it stopped and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from preflab.method.contract import (
    Batch,
    Mean,
    Role,
)
from preflab.seeds import derive
from preflab.training.fitting import Fitting


class Source(Protocol):
    """Yields the micro-batches of each optimiser step, forever.

    Attributes:
        steps_per_epoch: optimiser steps of one pass over the data.
        sampled_tokens: response tokens drawn so far.
        moves: roles that the source itself changes, which checkpoints must therefore hold.
        fitting: how an optimiser step is cut into micro-batches; read anew for each.
    """

    steps_per_epoch: int
    sampled_tokens: int
    moves: tuple[Role, ...]
    fitting: Fitting

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches from optimiser step `start_step` on, which may be the one that was asked for last."""
        ...

    def heaviest(self, size: int) -> Batch:
        """Return a micro-batch of so many prompts than which none is longer; which tokens it has does not count."""
        ...

    def take_metrics(self) -> dict[str, Mean]:
        """Return metrics gathered since the last call, and forget them."""
        ...

    def observe(self, metrics: Mapping[str, Mean]) -> None:
        """Learn what the loss logged on the optimiser step just taken."""
        ...


class Shuffled:
    """An endless stream of rows: one permutation of them after another, each a function of seed and epoch."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._cached: tuple[int, np.ndarray] | None = None

    def take(self, start: int, count: int) -> list[int]:
        """Return `count` rows from position `start` on."""
        return [self._row(position) for position in range(start, start + count)]

    def new(self, start: int, count: int) -> int:
        """Return how many of the rows that `take` would give are read for the first time; they come first."""
        return max(0, min(count, self.size - start))

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        return int(self._permutation(epoch)[offset])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            order = np.random.default_rng(derive(self.seed, "order", epoch)).permutation(self.size)
            self._cached = (epoch, order)
        return self._cached[1]
