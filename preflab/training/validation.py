"""Evaluation while a method learns: what it makes of rows set aside, the stop where that no longer improves.

It draws from generators of its own and puts back whatever a loss keeps: a run that is looked at takes the very steps of
one that is not. Its work is counted apart from that of training.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from preflab import ranks
from preflab.disk.files import write_jsonl
from preflab.disk.seals import damage, seal
from preflab.errors import UserError
from preflab.method.contract import LossMethod, Mean, Needs, Rollout, unit_mask
from preflab.method.plugins import answering
from preflab.model.in_parts import score_in_parts
from preflab.model.roles import Roles
from preflab.progress import progress, say
from preflab.sampling.sampler import Sampler
from preflab.seeds import derive, seeded
from preflab.settings.training import TrainConfig
from preflab.training.callbacks import SHOWN
from preflab.training.fitting import Fitting
from preflab.training.offline import OfflineSource
from preflab.training.rollouts import rollout_metrics

logger = logging.getLogger(__name__)

Measure = Callable[[], Mapping[str, float]]
"""Returns the figures of the policy, or reward model, as it is now."""

FILE, BEST, PREFIX = "validation.jsonl", "best", "eval_"


# ---- what is measured --------------------------------------------------------------------------------


@torch.no_grad()
def held_losses(algorithm: LossMethod, roles: Roles, source: OfflineSource) -> dict[str, float]:
    """Return the method's mean loss on rows set aside, and what it logs beside it, such as its accuracy.

    Args:
        algorithm: the method; what it carries from batch to batch is put back.
        roles: what it learns, and what it reads.
        source: has the rows.
    """
    state, sums = dict(algorithm.state), dict[str, Mean]()
    for batch in source.once():
        batch = batch.to(roles.device)
        with answering(algorithm, "loss"):
            loss = algorithm.loss(batch, roles(batch, algorithm.needs.scores))
        mask = unit_mask(batch, algorithm.needs.unit)
        found = {"loss": Mean(loss.values.masked_fill(~mask, 0.0).sum(), mask.sum()), **loss.metrics}
        for name, mean in found.items():
            before = sums.get(name)
            sums[name] = Mean(before.total + mean.total, before.items + mean.items) if before else mean
    algorithm.state = state
    return {name: (mean.total / mean.items).item() for name, mean in sums.items() if mean.items > 0}


@torch.no_grad()
def held_rollout(
    needs: Needs,
    temperature: float,
    roles: Roles,
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    fitting: Fitting,
    seed: int,
) -> dict[str, float]:
    """Return reward, KL and the other metrics of one sample for each prompt set aside, from the same noise each time.

    Args:
        needs: of the method; ``rollout`` says which roles score.
        temperature: that rollouts are drawn at.
        roles: the roles.
        sampler: draws.
        prompts: token ids.
        fitting: says how many prompts are scored together.
        seed: of the noise.
    """
    samples = sampler(roles, "policy", prompts, k=1, temperature=temperature, seed=derive(seed, "validation"))
    rollout = Rollout(samples.batch, score_in_parts(roles, samples.batch, needs.rollout, fitting.size), samples.ended)
    means = rollout_metrics(rollout).items()
    return {name: (mean.total / mean.items).item() for name, mean in means if mean.items > 0}


# ---- when, and what follows from it ------------------------------------------------------------------


class Judged(NamedTuple):
    """One evaluation.

    Attributes:
        step: optimiser steps taken by then.
        value: of the metric that early stopping goes by, the higher the better.
    """

    step: int
    value: float


class Evaluate(TrainerCallback):
    """Evaluates every so many steps and at the end, keeps the best weights, and stops where they no longer change.

    Args:
        train: ``eval_steps``, ``early_stopping`` and its metric.
        metric: what early stopping goes by, and whether more of it is better.
        measure: gives the figures.
        folder: of the run.
        save: writes what is trained into a folder.
        log: takes the figures, as the trainer's own lines.
        whole: has the model whole on every process.
        uncharged: work in it is not training's.
        seed: of whatever an evaluation draws.
        title: of the run.
    """

    def __init__(
        self,
        train: TrainConfig,
        metric: tuple[str, bool],
        measure: Measure,
        folder: Path,
        save: Callable[[Path], None],
        log: Callable[[dict[str, float]], None],
        whole: Callable[[], Any],
        uncharged: Callable[[], Any],
        *,
        seed: int,
        title: str,
    ) -> None:
        self.train, self.metric, self.measure, self.folder = train, metric, measure, folder
        self.save, self.log, self.whole, self.uncharged = save, log, whole, uncharged
        self.seed, self.title = seed, title
        self.judged: list[Judged] = []
        self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up what was measured up to the checkpoint that the run goes on from, and forget what came after."""
        rows = [row for row in state.log_history if any(name.startswith(PREFIX) for name in row)]
        self.judged = [Judged(row["step"], self._value(row)) for row in rows]
        if ranks.first():
            self._take_up(state.global_step, rows)

    def _take_up(self, step_now: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let the files say what was known after a step, and no more."""
        kept = [{name: row[name] for name in row if name == "step" or name.startswith(PREFIX)} for row in rows]
        write_jsonl(self.folder / FILE, [{"step": row["step"], **row} for row in kept])
        known = {self._best().step} if self.judged and self.train.early_stopping else set()
        for path in (self.folder / BEST).glob("*"):
            if not path.name.isdecimal() or int(path.name) > step_now:
                shutil.rmtree(path)
        for step in known:
            if trouble := damage(self.folder / BEST / str(step)):
                raise UserError(f"{self.title}: the best weights so far are damaged ({trouble}); remove {self.folder}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate when it is time; stop where the last evaluations brought nothing better."""
        # A budget ends a run before its last step; who ends it has been asked already.
        ends = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.train.eval_steps and not ends:
            return
        began = time.perf_counter()
        with self.whole(), self.uncharged(), seeded(self.seed, "validation"), progress("validation"):
            figures = {f"{PREFIX}{name}": value for name, value in self.measure().items()}
        self.seconds += time.perf_counter() - began
        due = control.should_log
        self.log(dict(figures))
        control.should_log = due  # which the library takes for done
        self._keep(state.global_step, figures)
        if 0 < self.train.early_stopping <= len(self.judged) - 1 - self.judged.index(self._best()):
            say(f"{self.title} stops at step {state.global_step}: nothing better since step {self._best().step}")
            # No checkpoint here: going on from it, the library would take one step too many.
            control.should_training_stop, control.should_log, control.should_save = True, True, False

    def _keep(self, step: int, figures: dict[str, float]) -> None:
        self.judged.append(Judged(step, self._value(figures)))
        if ranks.first():
            self._write(step, figures)
        ranks.barrier()

    def _write(self, step: int, figures: dict[str, float]) -> None:
        """Add a line to the file; keep the weights where they are the best so far."""
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        shown = [f"{name} {figures[PREFIX + name]:.3g}" for name in SHOWN if PREFIX + name in figures]
        say(f"{self.title}, looked at after step {step}: {', '.join(shown)}")
        if self.train.early_stopping and self._best().step == step:
            best = self.folder / BEST / str(step)
            partial = best.with_name(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            self.save(partial)
            seal(partial)
            partial.replace(best)
            if not self.train.save_steps:  # else a run that goes on from a checkpoint may want an earlier one
                for other in set((self.folder / BEST).iterdir()) - {best}:
                    shutil.rmtree(other)

    def _value(self, figures: Mapping[str, float]) -> float:
        """Return what early stopping goes by, the higher the better; 0 where nobody stops early."""
        name, more = self.metric
        if not self.train.early_stopping:
            return 0.0
        if f"{PREFIX}{name}" not in figures:
            raise UserError(f"{self.title}: its evaluation gives no {name}; it has {', '.join(sorted(figures))}")
        return figures[f"{PREFIX}{name}"] * (1 if more else -1)

    def _best(self) -> Judged:
        """Return the best evaluation so far; of equal ones, the first."""
        return max(self.judged, key=lambda judged: judged.value)

    def finish(self, start: Callable[[Path], None]) -> dict[str, float]:
        """Put the best weights back, where early stopping asks for them; return what the run's record says of all this.

        Args:
            start: reads what is trained from a folder.
        """
        record: dict[str, float] = {"evaluations": len(self.judged), "seconds": self.seconds}
        if self.train.early_stopping:
            best = self._best()
            start(self.folder / BEST / str(best.step))
            ranks.barrier()
            if ranks.first():
                shutil.rmtree(self.folder / BEST)
            record["best_step"] = best.step
        return record
