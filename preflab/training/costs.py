"""What a run spends as it goes: counted by every process for itself, and known to all after each optimiser step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from preflab import ranks
from preflab.model.work import Work
from preflab.training.sources import Source
from preflab.training.task import COUNTS

COUNTED = (*COUNTS, "flops")
"""Costs of all that are the sums of what each process counts."""


class Costs:
    """Counts what `TrainRecord` says a run costs; what was spent before an interruption is included.

    Args:
        source: knows of every response that was sampled, on every process.
        work: the FLOPs of this process's passes.
    """

    def __init__(self, source: Source, work: Work) -> None:
        self.source, self.work = source, work
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self._started, self._seconds_before, self._work_before = time.perf_counter(), 0.0, work.flops
        self._elsewhere: dict[str, Any] = dict.fromkeys((*COUNTED, "seconds"), 0)

    def so_far(self) -> dict[str, Any]:
        """Return what was spent so far; of several processes, by all up to the last `meet`, by the first's clock."""
        own = self._own()
        return {name: own[name] + self._elsewhere.get(name, 0) for name in own}

    def meet(self) -> None:
        """Learn what the other processes have spent; all call it together."""
        if ranks.ranks() > 1:
            own, every = self._own(), ranks.gathered(self._own())
            self._elsewhere = {name: sum(other[name] for other in every) - own[name] for name in COUNTED}
            self._elsewhere["seconds"] = every[0]["seconds"] - own["seconds"]

    def go_on(self, costs: Mapping[str, Any]) -> None:
        """Begin with what was spent by a checkpoint: the first process's from then on, as sums are over all."""
        own = {name: costs[name] if ranks.first() else 0 for name in COUNTED}
        self.counts = {name: own[name] for name in COUNTS}
        self.source.sampled_tokens, self._seconds_before = costs["sampled_tokens"], costs["seconds"]
        self._work_before = self.work.flops - own["flops"]

    def back_to(self, counts: Mapping[str, int], flops: int) -> None:
        """Forget what an attempt has spent that is made again."""
        self.counts, self.work.flops = dict(counts), flops

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """Leave time and work out of what training costs."""
        began, work = time.perf_counter(), self.work.flops
        try:
            yield
        finally:
            self._started += time.perf_counter() - began
            self._work_before += self.work.flops - work

    def _own(self) -> dict[str, Any]:
        return {
            **self.counts,
            "seconds": self._seconds_before + time.perf_counter() - self._started,
            "sampled_tokens": self.source.sampled_tokens,
            "flops": self.work.flops - self._work_before,
        }
