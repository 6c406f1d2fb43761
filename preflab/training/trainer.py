"""The loop: one `transformers.Trainer` fed by a batch source, reducing any method's loss alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import release_memory
from torch import Tensor
from transformers import Trainer, TrainingArguments

from preflab import ranks
from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.errors.answering import is_out_of_memory
from preflab.method.contract import Batch, LossMethod, Mean, Needs, Role, Scores, unit_mask
from preflab.method.plugins import answering
from preflab.method.records import FIELDS
from preflab.method.validation import check_loss
from preflab.model.roles import Roles
from preflab.progress import tracked
from preflab.seeds import random_states, set_random_states
from preflab.settings.training import TrainConfig
from preflab.training.arguments import total_steps, training_arguments
from preflab.training.budget import RESOLUTION, SCHEDULES_WITHOUT_END, Budget, paced, trained_on
from preflab.training.callbacks import StopAtBudget, watch
from preflab.training.checkpoints import last_checkpoint, remove_checkpoints
from preflab.training.costs import Costs
from preflab.training.foresight import foresee
from preflab.training.gradients import average_gradients, check_alike
from preflab.training.memory import PeakMemory
from preflab.training.rates import clipped_apart, grouped, own_rates
from preflab.training.snapshots import TakeSnapshots
from preflab.training.sources import Source
from preflab.training.task import TrainRecord
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
        # Gradients are averaged here; a wrapper would do it again, and within each backward pass.
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        # Read by versions of transformers that have no `loss_is_scaled_for_ga`.
        self.model_accepts_loss_kwargs = True
        self.roles, self.algorithm, self.source = roles, algorithm, source
        self.rates, self._state = own_rates(algorithm.config), dict(algorithm.state)
        self.budget, self.costs = budget, Costs(source, roles.work)
        self._sums: dict[str, Mean] = {}
        self._step: dict[str, Mean] = {}  # of the last optimiser step alone
        self._steps = _Steps(source, self)

    def get_train_dataloader(self) -> Any:
        """Return the optimiser steps' micro-batches, without end; `max_steps` ends training."""
        return self._steps

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Batch]], num_batches: int, device: torch.device
    ) -> tuple[list[list[Batch]], Tensor | int | None]:
        """Fetch the micro-batches of one optimiser step, and count their units over all ranks."""
        self.source.observe(self._over_ranks(self._step))
        self._step, self._state = {}, dict(self.algorithm.state)
        batches = next(epoch_iterator)
        unit = self.algorithm.needs.unit
        units = torch.stack([unit_mask(batch, unit).sum() for batch in batches]).sum()
        _add(self._sums, self.source.take_metrics())
        return [batches], cast(Tensor, self.accelerator.gather(units)).sum().clamp(min=1)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Go forward and back over all micro-batches of an optimiser step; over smaller ones where memory runs out.

        Whatever an attempt has left (gradients, metrics, costs, what the method carries on) is dropped, and the step
        begins again with the same rows, or the same rollout.

        Raises:
            Exception: that memory ran out, where nothing is left to make smaller.
        """
        batches: list[Batch] = inputs
        sums, counts, flops = dict(self._sums), dict(self.costs.counts), self.roles.work.flops
        noise = random_states(self.roles.device)
        while True:
            try:
                return self._taken(model, batches, num_items_in_batch)
            except Exception as error:
                if not is_out_of_memory(error) or self.accelerator.num_processes > 1:
                    raise
                changed = self.source.fitting.tighten()
                if changed is None:
                    raise
                logger.warning("memory ran out at step %s: from here on %s", self.state.global_step + 1, changed)
            # Here, where the exception no longer holds on to what the attempt had in memory.
            model.zero_grad()
            release_memory()
            self.roles.checkpoint_activations(self.source.fitting.recomputes)
            self.algorithm.state = dict(self._state)
            batches = next(iter(self._steps))
            self.source.take_metrics()
            self._step, self._sums = {}, dict(sums)
            self.costs.back_to(counts, flops)
            set_random_states(self.roles.device, noise)

    def _taken(self, model: Any, batches: list[Batch], units: Any) -> Tensor:
        """Add up the gradients of micro-batches, and return their loss; processes meet behind the last of them."""
        losses = [Trainer.training_step(self, model, batch, units) for batch in tracked(batches, "passes", "batch")]
        if ranks.ranks() > 1 and not any(batch.response_mask.any() for batch in batches):
            model.zero_grad()  # of passes that only kept others company
        average_gradients(self.roles.parameters())
        self.costs.meet()
        return torch.stack(losses).sum()

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
        reduced_by = self._reduced
        if not batch.response_mask.any():
            if not self.roles.is_sharded:
                # Without a backward pass there is no gradient, and the optimiser leaves such parameters alone.
                return torch.zeros((), device=batch.prompt_ids.device, requires_grad=True)
            # Others need this process's pieces of the base: it goes through what they go through, and learns nothing.
            batch, reduced_by = _with_a_token(batch), _nothing
        needs = self.algorithm.needs
        *others, last = self.roles.passes([role for role in needs.scores if role in needs.trains])
        first = others[0] if others else last
        constant = needs.trains if needs.separable else first
        with torch.no_grad():
            scores: Scores = model(batch, [role for role in needs.scores if role not in constant])
        for group in others:
            scores = merged_scores(scores, model(batch, group))
            reduced, _ = reduced_by(batch, stood_in(scores, batch, needs), num_items_in_batch)
            self.accelerator.backward(reduced)
            scores = Scores(*(None if x is None else x.detach() for x in scores))
        scores = merged_scores(scores, model(batch, last))
        reduced, metrics = reduced_by(batch, scores, num_items_in_batch)
        _add(self._sums, metrics)
        _add(self._step, metrics)
        for name, count in trained_on(inputs, needs.unit).items():
            self.costs.counts[name] += count
        return (reduced, scores) if return_outputs else reduced

    def _reduced(self, batch: Batch, scores: Scores, units: Tensor) -> tuple[Tensor, Mapping[str, Mean]]:
        """Return the batch's share of the optimiser batch's mean loss, and the method's metrics."""
        mask = unit_mask(batch, self.algorithm.needs.unit)
        with answering(self.algorithm, "loss"):
            loss = self.algorithm.loss(batch, scores)
        check_loss(self.algorithm, loss, mask)
        # Gradients of all processes are averaged after this; the units were counted over all of them.
        return loss.values.masked_fill(~mask, 0.0).sum() * self.accelerator.num_processes / units, loss.metrics

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: the library's estimate counts prompts k times."""
        return 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        pass

    # ---- roles with a learning rate of their own -------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimiser, with groups of their own for roles that have a learning rate of their own."""
        return grouped(super().create_optimizer(model), self.rates, self.roles.parameters_of)

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip gradients, those of roles with a learning rate of their own apart; return the norm of all before."""
        if not self.rates:
            return super()._clip_grad_norm(model)
        learning = [p for p in model.parameters() if p.requires_grad]
        clip = partial(self.accelerator.clip_grad_norm_, max_norm=self.args.max_grad_norm)
        return clipped_apart(clip, learning, [self.roles.parameters_of(role) for role in self.rates])

    # ---- metrics ---------------------------------------------------------------------------------

    @staticmethod
    def _over_ranks(sums: dict[str, Mean]) -> dict[str, Mean]:
        """Return the metrics of all processes together; one that had no rows has none."""
        found: dict[str, Mean] = {}
        for one in ranks.gathered(sums):
            _add(found, one)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the method's metrics, averaged since the last line over all ranks."""
        if "loss" in logs:
            sums = self._over_ranks(self._sums)
            logs |= {name: (sums[name].total / sums[name].items).item() for name in sums if sums[name].items > 0}
            self._sums = {}
        if self.budget is not None and "loss" in logs:
            logs["budget"] = self.share()
        super().log(logs, start_time)

    # ---- budgets ---------------------------------------------------------------------------------

    def share(self) -> float:
        """Return which part of the budget is spent: by the first process's clock, as all must stop together."""
        assert self.budget is not None
        return ranks.from_first(self.budget.share(self.costs.so_far()))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the learning rate's schedule; under a budget, one that ends with it."""
        shared = 0 < self.args.warmup_steps < 1  # of the budget then, since nobody knows how many steps it has
        if self.budget is None or (self.args.lr_scheduler_type in SCHEDULES_WITHOUT_END and not shared):
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = 0 if shared else int(self.args.warmup_steps)
        schedule: Any = super().create_scheduler(warmup + RESOLUTION, optimizer)
        schedule.lr_lambdas = [paced(factor, warmup, self.share) for factor in schedule.lr_lambdas]
        return schedule

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or cast(str, self.args.output_dir))
        for role in (*self.algorithm.needs.trains, *self.source.moves):
            self.roles.save(role, folder / role)
        fitting = self.source.fitting.carried()
        carried = {"costs": self.costs.so_far(), "state": dict(self.algorithm.state), "fitting": fitting}
        (folder / CARRIED).write_text(json.dumps(carried))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        for role in (*self.algorithm.needs.trains, *self.source.moves):
            self.roles.start(role, folder / role)
        carried = read_object(folder / CARRIED)
        self.algorithm.state = carried["state"]
        self.costs.go_on(carried["costs"])
        self.source.fitting.go_on(carried.get("fitting", self.source.fitting.carried()))
        self.roles.checkpoint_activations(self.source.fitting.recomputes)


def _with_a_token(batch: Batch) -> Batch:
    """Return a batch with one token in each response, whatever was there."""
    mask = torch.zeros_like(batch.response_mask)
    mask[..., 0] = True
    return batch.replace(response_mask=mask)


def _nothing(batch: Batch, scores: Scores, units: Any) -> tuple[Tensor, Mapping[str, Mean]]:
    """Return a loss of 0 that goes back through every score that learns."""
    return torch.stack([0.0 * score.sum() for score in scores if score is not None and score.requires_grad]).sum(), {}


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


class _Steps:
    """What the Trainer iterates: has no length, so that `max_steps` alone ends training. It can begin a step anew."""

    def __init__(self, source: Source, trainer: Trainer) -> None:
        self.source, self.trainer = source, trainer

    def __iter__(self) -> _Steps:
        self._batches = self.source.batches(self.trainer.state.global_step)
        return self

    def __next__(self) -> list[Batch]:
        device = self.trainer.args.device
        return [next(self._batches).to(device) for _ in range(self.source.fitting.per_step)]


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
    folder = ranks.from_first(folder)
    steps, budget = total_steps(train, source), Budget.of(train)
    arguments = training_arguments(train, steps, folder, seed, roles.device)
    roles.learn(algorithm.needs.trains)
    foresee(source, roles, algorithm.needs, bf16=train.bf16)
    source.fitting.go_on(ranks.from_first(source.fitting.carried()))
    roles.checkpoint_activations(source.fitting.recomputes)
    roles.autocast = train.bf16
    if train.shard_base and ranks.ranks() > 1:
        roles.shard_base()
    try:
        trainer = PreferenceTrainer(roles, algorithm, source, arguments, budget)
    except (ValueError, RuntimeError) as error:  # report_to names something unknown, or not installed
        raise UserError(f"training settings are not accepted: {error}") from error
    watch(trainer, title, folder, algorithm.metrics)
    if snapshots:
        role, spent = algorithm.needs.trains[0], None if budget is None else trainer.share
        trainer.add_callback(TakeSnapshots(snapshots, folder, lambda to: roles.save(role, to / role), spent))
    if budget is not None:
        trainer.add_callback(StopAtBudget(trainer.share))
    evaluate = None
    if measure is not None:
        trains, log = algorithm.needs.trains, trainer.log
        save = partial(_save_roles, roles, trains)
        evaluate = Evaluate(
            train, judged_by, measure, folder, save, log, roles.whole, trainer.costs.uncharged, seed=seed, title=title
        )
        trainer.add_callback(evaluate)
    memory = PeakMemory(roles.device)
    trainer.train(resume_from_checkpoint=ranks.from_first(last_checkpoint(folder, steps) if ranks.first() else None))
    peak, costs = memory.peak(), trainer.costs.so_far()
    roles.gather_base()
    looked = None if evaluate is None else evaluate.finish(partial(_start_roles, roles, algorithm.needs.trains))
    roles.learn(())
    roles.autocast = False
    check_alike(roles.parameters(), title)
    if ranks.first():
        remove_checkpoints(folder)
    steps, final = trainer.state.global_step, last_metrics(trainer)
    return TrainRecord(steps=steps, peak_memory_bytes=peak, final=final, validation=looked, **costs)


def _save_roles(roles: Roles, trains: Sequence[Role], folder: Path) -> None:
    for role in trains:
        roles.save(role, folder / role)


def _start_roles(roles: Roles, trains: Sequence[Role], folder: Path) -> None:
    for role in trains:
        roles.start(role, folder / role)
