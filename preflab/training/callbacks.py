"""What watches a training run: how far it is, the metrics file, and the stop at numbers that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from preflab.disk.files import write_jsonl
from preflab.errors import UserError
from preflab.progress import Task, progress, say
from preflab.settings.training import MOST_STEPS
from preflab.training.checkpoints import SealCheckpoints


def watch(trainer: Trainer, title: str, folder: Path) -> None:
    """Give a trainer our progress, ``metrics.jsonl``, stop at NaN and sealed checkpoints, for what it prints itself."""
    for callback in (PrinterCallback, ProgressCallback, DEFAULT_PROGRESS_CALLBACK):  # the last is a notebook's table
        trainer.remove_callback(callback)
    metrics = MetricsFile(folder / "metrics.jsonl")
    for added in (ShowProgress(title), metrics, StopAtNaN(title), SealCheckpoints(folder)):
        trainer.add_callback(added)


SHOWN = ("loss", "accuracy", "reward", "kl", "budget")
"""Of the metrics, those that are shown beside the progress."""


class ShowProgress(TrainerCallback):
    """Shows the optimiser's steps, with the loss and the reward beside them."""

    def __init__(self, title: str) -> None:
        self.title, self.open, self.task = title, ExitStack(), cast(Task, None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin at the step training starts from."""
        if state.is_world_process_zero:
            total = state.max_steps if state.max_steps < MOST_STEPS else None
            went_on = f", going on from step {state.global_step}" if state.global_step else ""
            steps = "until its budget is spent" if total is None else f"{total:,} step{'' if total == 1 else 's'}"
            say(f"{self.title}: {steps}{went_on}")
            self.task = self.open.enter_context(progress(self.title, total, "step", done=state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on."""
        if self.task is not None:
            self.task.reach(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show a few metrics."""
        if self.task is not None and (shown := {name: logs[name] for name in SHOWN if name in (logs or {})}):
            self.task.note(**shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End."""
        self.open.close()


class MetricsFile(TrainerCallback):
    """Appends each logged line to ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines up to the checkpoint alone: an interrupted run may have written more."""
        if state.is_world_process_zero:
            write_jsonl(self.path, [{"step": row["step"], **row} for row in state.log_history if "loss" in row])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs and "loss" in logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class StopAtNaN(TrainerCallback):
    """A loss that is no number will not heal: stop at once, and say where."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Raise `UserError` if the logged loss or gradient norm is not finite."""
        # train_loss, logged at the end, covers the steps after the last line.
        for name in ("loss", "grad_norm", "train_loss"):
            value = (logs or {}).get(name, 0.0)
            if not torch.isfinite(torch.tensor(float(value))):
                raise UserError(
                    f"{self.title}: {name} is {value} at step {state.global_step}; lower learning_rate or check data"
                )


class StopAtBudget(TrainerCallback):
    """Stops after the optimiser step that spends the last of a budget.

    Args:
        share: which part of the budget is spent.
    """

    patience = 1000

    def __init__(self, share: Callable[[], float]) -> None:
        self.share, self._before, self._idle = share, 0.0, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop, or raise `UserError` where many steps in a row have spent nothing."""
        share = self.share()
        self._before, self._idle = share, self._idle + 1 if share == self._before else 0
        if self._idle >= self.patience:
            raise UserError(f"{self.patience} steps spent nothing of the budget; count it in FLOPs or time instead")
        if share >= 1:
            # No checkpoint here: going on from it, the library would take one step too many.
            control.should_training_stop, control.should_log, control.should_save = True, True, False
