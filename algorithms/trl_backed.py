"""TRL's own trainers under our interface: same data, order, adapters, budget and evaluation.

A method here is the native one (its ``Config``, ``needs`` and ``loss``) with a `fit` that hands the
work to a TRL trainer. What differs between trainers is a `Backing`, plain data; `fit` knows none by
name. TRL's usage statistics are switched off.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from algorithms.dpo import DPO
from algorithms.reward import Reward
from preflab import UserError

if TYPE_CHECKING:
    from preflab.data import EncodedGroup
    from preflab.interface import Role
    from preflab.roles import Roles
    from preflab.trainer import Task, TrainRecord

logger = logging.getLogger(__name__)

Row = dict[str, list[int]]
HEAD = "base_model.model.score.weight"


def _prompt_and_pair(group: EncodedGroup) -> Row:
    chosen, rejected = group.response_ids[:2]
    return {"prompt_ids": group.prompt_ids, "chosen_ids": chosen, "rejected_ids": rejected}


def _whole_pair(group: EncodedGroup) -> Row:
    chosen, rejected = (group.prompt_ids + ids for ids in group.response_ids[:2])
    return {"chosen_ids": chosen, "rejected_ids": rejected}


@dataclass(frozen=True)
class Backing:
    """What sets one TRL trainer apart from another.

    Attributes:
        trainer: name of the trainer's class in `trl`.
        config: name of its config's class.
        row: one encoded group as that trainer's tokenised columns.
        scalar: whether it trains a classifier with one label instead of a language model.
        fields: config fields from the method's own config.
        metrics: our name of a metric by TRL's.
    """

    trainer: str
    config: str
    row: Callable[[EncodedGroup], Row]
    scalar: bool = False
    fields: Callable[[Any], dict[str, Any]] = lambda config: {}
    metrics: Mapping[str, str] = field(default_factory=dict)


class TRLBacked:
    """Base of the methods of this file; goes before the native method among a class's bases."""

    backing: ClassVar[Backing]

    def fit(self: Any, task: Task) -> TrainRecord:
        """Train by TRL and leave the trained weights in ``task.roles``.

        Raises:
            UserError: for settings or adapters that TRL cannot train.
        """
        from preflab.memory import PeakMemory
        from preflab.trainer import TrainRecord

        role: Role = self.needs.trains[0]
        trainer, groups = self.build(task)
        started, memory = time.perf_counter(), PeakMemory(task.roles.device)
        trainer.train()
        seconds, peak = time.perf_counter() - started, memory.peak()
        _put(task.roles, role, trainer.model)
        # Prompts count once, as in the native loop, though TRL runs them with each response.
        tokens = sum(len(g.prompt_ids) + sum(map(len, g.response_ids[:2])) for g in groups)
        final: Any = next((line for line in reversed(trainer.state.log_history) if "loss" in line), {})
        return TrainRecord(trainer.state.global_step, seconds, tokens, 0, peak, final)

    def build(self: Any, task: Task) -> tuple[Any, list[EncodedGroup]]:
        """Return the TRL trainer, ready to train, and the rows it will read, in order."""
        from datasets import Dataset
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        from preflab.sources import OfflineSource
        from preflab.trainer import MetricsFile, ProgressBar, StopAtNaN, total_steps

        tokenizer = _tokenizer(task)
        source = OfflineSource(task.groups, task.train, tokenizer.pad_token_id, task.seed)
        steps = total_steps(task.train, source)
        groups = [task.groups[row] for row in source.shard.take(0, steps * task.train.optimiser_batch)]
        trainer = _trainer_class(self.backing)(
            model=_model(task.roles, self.needs.trains[0], self.backing.scalar),
            args=_arguments(self.backing, self.config, task, steps),
            train_dataset=Dataset.from_list([self.backing.row(group) for group in groups]),
            processing_class=tokenizer,
        )
        _set_reference(trainer.model, task.roles)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        for added in (ProgressBar(task.title), MetricsFile(task.folder / "metrics.jsonl"), StopAtNaN()):
            trainer.add_callback(added)
        return trainer, groups
