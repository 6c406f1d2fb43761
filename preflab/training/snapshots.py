"""Snapshots: the trained role's weights as they were on the way, for looking back at the course of a run.

Nothing reads them while training: what they are worth is measured after the run, where no loss can see it.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from preflab.disk.seals import seal

FOLDER = "snapshots"


class Snapshot(NamedTuple):
    """Weights as they were on the way.

    Attributes:
        number: which of the run's snapshots; the same share of training in every run that takes as many.
        step: optimiser steps taken by then.
        folder: has the role's adapter in a folder of the role's name, as a finished stage has.
    """

    number: int
    step: int
    folder: Path


def shares(count: int) -> list[float]:
    """Return after which shares of a run its snapshots are taken: evenly spaced in the square root, the ends left out.

    The start needs none, and the end is the run's own result.
    """
    return [(number / (count + 1)) ** 2 for number in range(1, count + 1)]


def snapshots(folder: Path) -> list[Snapshot]:
    """Return the snapshots that a training run left in its folder, in order."""
    named = [(re.fullmatch(r"(\d{1,9})-step(\d{1,18})", path.name), path) for path in (folder / FOLDER).glob("*")]
    return sorted(Snapshot(int(match[1]), int(match[2]), path) for match, path in named if match)


class TakeSnapshots(TrainerCallback):
    """Keeps weights, sealed, at the `shares` of a run; one that goes on keeps what it would have kept anyway.

    Args:
        count: how many; fewer where a run has fewer steps.
        folder: of the run.
        save: writes the weights into the folder it is given.
        spent: which part of the run's budget is spent; None where steps end the run.
    """

    def __init__(
        self, count: int, folder: Path, save: Callable[[Path], None], spent: Callable[[], float] | None = None
    ) -> None:
        self.shares, self.run, self.save, self.spent = shares(count), folder, save, spent
        self._passed = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an interrupted run took after the checkpoint that this one starts from."""
        self._passed = bisect_right(self.shares, self._share(state))
        if state.is_world_process_zero:
            for snapshot in snapshots(self.run):
                if snapshot.step > state.global_step:
                    shutil.rmtree(snapshot.folder)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take one where a share has been passed; of several passed in one step, the last."""
        share = self._share(state)
        before, self._passed = self._passed, bisect_right(self.shares, share)
        if self._passed > before and share < 1 and state.is_world_process_zero:
            final = self.run / FOLDER / f"{self._passed}-step{state.global_step}"
            partial = final.with_name(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            self.save(partial)
            seal(partial)
            partial.replace(final)

    def _share(self, state: Any) -> float:
        return self.spent() if self.spent is not None else float(state.global_step / state.max_steps)
