"""Checkpoints: sealed once they are whole; an interrupted run goes on from the last that still is."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from preflab import ranks
from preflab.disk.files import read_object, remove, sync, write_json
from preflab.disk.seals import damage, seal
from preflab.errors import UserError
from preflab.training.snapshots import snapshots

logger = logging.getLogger(__name__)

TAKEN = "snapshots.json"
"""In a checkpoint: the snapshots that were taken by then, which going on from it does not take again."""


class SealCheckpoints(TrainerCallback):
    """Writes each checkpoint through to the disk and seals it, last of all.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let a line of metrics end with each checkpoint: a kill would else leave half of what it is a mean of."""
        if control.should_save:
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal what has just been saved, once all have saved what is theirs."""
        ranks.barrier()
        if state.is_world_process_zero:
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            write_json(checkpoint / TAKEN, {"snapshots": _taken(self.folder, state.global_step)})
            seal(checkpoint)
            sync(self.folder)


def last_checkpoint(folder: Path, steps: int) -> str | None:
    """Return the last whole checkpoint before step `steps`, where there is one.

    One that is half-done or damaged, or whose snapshots are, is said and removed, and an earlier one taken. From
    the very last step the library would take one step too many.
    """
    named = [(re.fullmatch(r"checkpoint-(\d{1,18})", path.name), path) for path in folder.glob("checkpoint-*")]
    found = {int(match[1]): path for match, path in named if match}
    for step in sorted((step for step in found if step < steps), reverse=True):
        trouble = damage(found[step]) or _of_snapshots(folder, found[step], step)
        if trouble is None:
            return str(found[step])
        logger.warning("%s of %s is passed over: %s", found[step].name, folder.name, trouble)
        remove(found[step])
    return None


def remove_checkpoints(folder: Path) -> None:
    """Delete what a finished run needs no more; optimiser states are the one thing here that is pickled."""
    for checkpoint in folder.glob("checkpoint-*"):
        remove(checkpoint)


def _taken(folder: Path, step: int) -> list[str]:
    return [snapshot.folder.name for snapshot in snapshots(folder) if snapshot.step <= step]


def _of_snapshots(folder: Path, checkpoint: Path, step: int) -> str | None:
    """Say what is wrong with the snapshots that were taken before a checkpoint."""
    try:
        if read_object(checkpoint / TAKEN).get("snapshots") != _taken(folder, step):
            return "the snapshots taken before it are not there"
    except UserError as error:
        return str(error)
    for snapshot in snapshots(folder):
        trouble = damage(snapshot.folder) if snapshot.step <= step else None
        if trouble is not None:
            return f"snapshot {snapshot.folder.name}: {trouble}"
    return None
