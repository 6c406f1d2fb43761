"""The loop: one `transformers.Trainer` fed by a batch source, reducing any method's loss alike."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.method.contract import Batch, LossMethod, Mean, Needs, Role, Scores, unit_mask
from preflab.method.plugins import answering
from preflab.method.records import FIELDS
from preflab.method.validation import check_loss
from preflab.model.roles import Roles
from preflab.settings.training import TrainConfig
from preflab.training.arguments import total_steps, training_arguments
from preflab.training.budget import RESOLUTION, SCHEDULES_WITHOUT_END, Budget, paced, trained_on
from preflab.training.callbacks import StopAtBudget, watch
from preflab.training.checkpoints import last_checkpoint, remove_checkpoints
from preflab.training.memory import PeakMemory
from preflab.training.snapshots import TakeSnapshots
from preflab.training.sources import Source
from preflab.training.task import COUNTS, TrainRecord
from preflab.training.validation import Evaluate, Measure

logger = logging.getLogger(__name__)

CARRIED = "carried.json"


class PreferenceTrainer(Trainer):
    """Minimises any `LossMethod`'s loss over the batches of any `Source`.

    The loss is summed here and divided by the number of units (tokens, responses or prompts) in the
    *whole* optimiser batch, over all accumulation steps and ranks: eight micro-batches of one give
    the gradient of one batch of eight. An optimiser batch without any unit changes nothing.

    Under a budget the learning rate's decay runs over the share that is spent.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        roles: Roles,
        algorithm: LossMethod,
        source: Source,
        args: TrainingArguments,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(model=roles, args=args, data_collator=lambda rows: rows)
        # Read by versions of transformers that have no `loss_is_scaled_for_ga`.
        self.model_accepts_loss_kwargs = True
        self.roles, self.algorithm, self.source = roles, algorithm, source
        self.budget, self.counts = budget, dict.fromkeys(COUNTS, 0)
        self._started, self._seconds_before = time.perf_counter(), 0.0
        self._work_before = roles.work.flops
        self._sums: dict[str, Mean] = {}
        self._step: dict[str, Mean] = {}  # of the last optimiser step alone

    def get_train_dataloader(self) -> Any:
        """Return the source's endless stream; `max_steps` ends it."""
        return _Stream(self.source, self)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """Fetch the micro-batches of one optimiser step, and count their units over all ranks."""
        self.source.observe(self._over_ranks(self._step))
        self._step = {}
        batches = [next(epoch_iterator).to(device) for _ in range(num_batches)]
        unit = self.algorithm.needs.unit
        units = torch.stack([unit_mask(batch, unit).sum() for batch in batches]).sum()
        _add(self._sums, self.source.take_metrics())
        return batches, cast(Tensor, self.accelerator.gather(units)).sum().clamp(min=1)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Score the batch, ask the method for its unreduced loss, and reduce it.

        Where several roles learn, their weights are disjoint, and so the gradient of each is that of the
        loss with the others' scores held constant. Each role's graph is used up before the next is made:
        PPO's policy and value together then take the memory of one. Unless the method is separable, that
        takes one more pass without a graph.
        """
        batch: Batch = inputs
        if not batch.response_mask.any():
            # Without a backward pass there is no gradient, and the optimiser leaves such parameters alone.
            return torch.zeros((), device=batch.prompt_ids.device, requires_grad=True)
        needs = self.algorithm.needs
        *others, last = self.roles.passes([role for role in needs.scores if role in needs.trains])
        first = others[0] if others else last
        constant = needs.trains if needs.separable else first
        with torch.no_grad():
            scores: Scores = model(batch, [role for role in needs.scores if role not in constant])
        for group in others:
            scores = merged_scores(scores, model(batch, group))
            reduced, _ = self._reduced(batch, stood_in(scores, batch, needs), num_items_in_batch)
            self.accelerator.backward(reduced)
            scores = Scores(*(None if x is None else x.detach() for x in scores))
        scores = merged_scores(scores, model(batch, last))
        reduced, metrics = self._reduced(batch, scores, num_items_in_batch)
        _add(self._sums, metrics)
        _add(self._step, metrics)
        for name, count in trained_on(batch, needs.unit).items():
            self.counts[name] += count
        return (reduced, scores) if return_outputs else reduced

    def _reduced(self, batch: Batch, scores: Scores, units: Tensor) -> tuple[Tensor, Mapping[str, Mean]]:
        """Return the batch's share of the optimiser batch's mean loss, and the method's metrics."""
        mask = unit_mask(batch, self.algorithm.needs.unit)
        with answering(self.algorithm, "loss"):
            loss = self.algorithm.loss(batch, scores)
        check_loss(self.algorithm, loss, mask)
        # Ranks' gradients are averaged after this; the units were counted over all of them.
        return loss.values.masked_fill(~mask, 0.0).sum() * self.accelerator.num_processes / units, loss.metrics

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: the library's estimate counts prompts k times."""
        return 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        pass

    # ---- metrics ---------------------------------------------------------------------------------

    def _over_ranks(self, sums: dict[str, Mean]) -> dict[str, Mean]:
        names = sorted(sums)
        if not names:
            return {}
        rows = torch.stack([torch.stack([sums[n].total, sums[n].items]).float() for n in names])
        total = cast(Tensor, self.accelerator.reduce(rows, "sum"))
        return {name: Mean(*row) for name, row in zip(names, total, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the method's metrics, averaged since the last line over all ranks."""
        if self._sums and "loss" in logs:
            sums = self._over_ranks(self._sums)
            logs |= {name: (sums[name].total / sums[name].items).item() for name in sums if sums[name].items > 0}
            self._sums = {}
        if self.budget is not None and "loss" in logs:
            logs["budget"] = self.share()
        super().log(logs, start_time)

    # ---- budgets ---------------------------------------------------------------------------------

    def share(self) -> float:
        """Return which part of the budget is spent."""
        assert self.budget is not None
        return self.budget.share(self.costs())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the learning rate's schedule; under a budget, one that ends with it."""
        if self.budget is None or self.args.lr_scheduler_type in SCHEDULES_WITHOUT_END:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        schedule: Any = super().create_scheduler(warmup + RESOLUTION, optimizer)
        schedule.lr_lambdas = [paced(factor, warmup, self.share) for factor in schedule.lr_lambdas]
        return schedule

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """Leave time and work out of what training costs."""
        began, work = time.perf_counter(), self.roles.work.flops
        try:
            yield
        finally:
            self._started += time.perf_counter() - began
            self._work_before += self.roles.work.flops - work

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or cast(str, self.args.output_dir))
        for role in (*self.algorithm.needs.trains, *self.source.moves):
            self.roles.save(role, folder / role)
        carried = {"costs": self.costs(), "state": dict(self.algorithm.state)}
        (folder / CARRIED).write_text(json.dumps(carried))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        for role in (*self.algorithm.needs.trains, *self.source.moves):
            self.roles.start(role, folder / role)
        carried = read_object(folder / CARRIED)
        costs, self.algorithm.state = carried["costs"], carried["state"]
        self.counts = {name: costs[name] for name in COUNTS}
        self.source.sampled_tokens, self._seconds_before = costs["sampled_tokens"], costs["seconds"]
        self._work_before = self.roles.work.flops - costs["flops"]

    def costs(self) -> dict[str, Any]:
        """Return what `TrainRecord` counts, so far; what was spent before an interruption is included."""
        return {
            **self.counts,
            "seconds": self._seconds_before + time.perf_counter() - self._started,
            "sampled_tokens": self.source.sampled_tokens,
            "flops": self.roles.work.flops - self._work_before,
        }


def _add(sums: dict[str, Mean], metrics: Mapping[str, Mean]) -> None:
    for name, mean in metrics.items():
        before = sums.get(name)
        sums[name] = Mean(before.total + mean.total, before.items + mean.items) if before else mean


def merged_scores(scores: Scores, newer: Scores) -> Scores:
    """Return `scores` with the fields that `newer` has taken from there."""
    return Scores(*(old if new is None else new for old, new in zip(scores, newer, strict=True)))


def stood_in(scores: Scores, batch: Batch, needs: Needs) -> Scores:
    """Return `scores` with zeros for those of learning roles that are still to come, which a separable loss bears."""
    nothing = torch.zeros(batch.response_mask.shape, device=batch.response_mask.device)
    missing = {FIELDS[role]: nothing for role in needs.trains if scores.of(role) is None}
    return scores._replace(**missing)


class _Stream:
    """What the Trainer iterates: has no length, so that `max_steps` alone ends training."""

    def __init__(self, source: Source, trainer: Trainer) -> None:
        self.source, self.trainer = source, trainer

    def __iter__(self) -> Iterator[Batch]:
        return self.source.batches(self.trainer.state.global_step)


def last_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the last line logged while training."""
    lines: list[Any] = trainer.state.log_history
    return next((line for line in reversed(lines) if "loss" in line), {})


def run_training(
    roles: Roles,
    algorithm: LossMethod,
    source: Source,
    train: TrainConfig,
    folder: Path,
    *,
    seed: int,
    title: str,
    snapshots: int = 0,
    measure: Measure | None = None,
    judged_by: tuple[str, bool] = ("loss", False),
) -> TrainRecord:
    """Train the roles the method trains, from the last checkpoint in `folder` if there is one.

    The first of them is kept as it is on the way, `snapshots` times (see `preflab.training.snapshots`). With `measure`
    they are evaluated on the way (see `preflab.training.validation`); early stopping then goes by `judged_by`.

    Raises:
        UserError: for settings the library refuses, or when the loss becomes NaN or infinite.
    """
    steps, budget = total_steps(train, source), Budget.of(train)
    arguments = training_arguments(train, steps, folder, seed, roles.device)
    roles.learn(algorithm.needs.trains)
    roles.checkpoint_activations(train.gradient_checkpointing)
    roles.autocast = train.bf16
    try:
        trainer = PreferenceTrainer(roles, algorithm, source, arguments, budget)
    except (ValueError, RuntimeError) as error:  # report_to names something unknown, or not installed
        raise UserError(f"training settings are not accepted: {error}") from error
    watch(trainer, title, folder)
    if snapshots:
        role, spent = algorithm.needs.trains[0], None if budget is None else trainer.share
        trainer.add_callback(TakeSnapshots(snapshots, folder, lambda to: roles.save(role, to / role), spent))
    if budget is not None:
        trainer.add_callback(StopAtBudget(trainer.share))
    evaluate = None
    if measure is not None:
        trains, log = algorithm.needs.trains, trainer.log
        save = partial(_save_roles, roles, trains)
        evaluate = Evaluate(train, judged_by, measure, folder, save, log, trainer.uncharged, seed=seed, title=title)
        trainer.add_callback(evaluate)
    memory = PeakMemory(roles.device)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder, steps))
    peak, costs = memory.peak(), trainer.costs()
    looked = None if evaluate is None else evaluate.finish(partial(_start_roles, roles, algorithm.needs.trains))
    roles.learn(())
    roles.autocast = False
    remove_checkpoints(folder)
    steps, final = trainer.state.global_step, last_metrics(trainer)
    return TrainRecord(steps=steps, peak_memory_bytes=peak, final=final, validation=looked, **costs)


def _save_roles(roles: Roles, trains: Sequence[Role], folder: Path) -> None:
    for role in trains:
        roles.save(role, folder / role)


def _start_roles(roles: Roles, trains: Sequence[Role], folder: Path) -> None:
    for role in trains:
        roles.start(role, folder / role)
