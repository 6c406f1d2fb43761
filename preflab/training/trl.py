"""TRL's own trainers under our interface: same data, order, adapters, budget and evaluation.

A method backed by TRL has the ``Config`` and ``needs`` of the native one, and a `fit` that hands the work to a
TRL trainer. What sets one trainer apart from another is a `Backing`, plain data; nothing
below it knows a trainer by name. TRL's usage statistics are off.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from preflab.errors import UserError
from preflab.method.contract import LossMethod, TrainerMethod
from preflab.scoring.padding import classifier_tokenizer, padding_of

if TYPE_CHECKING:
    from torch import Tensor

    from preflab.data.encoding import EncodedGroup
    from preflab.method.contract import Batch, Scores
    from preflab.training.budget import Budget
    from preflab.training.task import Task, TrainRecord


class Renamed(NamedTuple):
    """Our name of one of TRL's metrics; ours is ``scale`` times theirs."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class Backing:
    """What sets one TRL trainer apart from another.

    Attributes:
        trainer: name of the trainer's class in `trl`.
        config: name of its config's class.
        row: one encoded group as the columns the trainer makes when it tokenises, or samples from.
        fields: fields of its config that follow from the method's own config and task, or are not left to its
            defaults.
        scalar: trains a classifier with one label in place of a language model.
        only: fields of the method's own config that it has no counterpart of, and the one value it can follow.
        metrics: each of its metrics that we have too (or use the name of), and what it is called here.
    """

    trainer: str
    config: str
    row: Callable[[EncodedGroup], dict[str, Any]]
    fields: Callable[[Any, Task], dict[str, Any]]
    scalar: bool = False
    only: Mapping[str, Any] = field(default_factory=dict)
    metrics: Callable[[Any], Mapping[str, Renamed]] = lambda config: {}


class TRLBacked(TrainerMethod):
    """Base of methods trained by TRL: define ``native``, whose config and needs they have, and ``backing``."""

    native: ClassVar[type[LossMethod]]
    backing: ClassVar[Backing]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        said = vars(cls)
        if "native" in said:  # a class on one that is backed has what that one has, or says it anew
            for name in ("Config", "needs", "training", "metrics"):
                if name not in said:
                    setattr(cls, name, getattr(cls.native, name))

    def __init__(self, config: Any) -> None:
        self._native = self.native(config)
        self.config, self.needs, self.metrics = config, self._native.needs, self._native.metrics
        for name, value in self.backing.only.items():
            if getattr(config, name) != value:
                raise UserError(f"{self.backing.trainer} of TRL has no {name}; leave it at {value}")

    @property
    def label_noise(self) -> float:
        """Share of labels it takes to be flipped."""
        return self._native.label_noise

    def optimum(self, batch: Batch, scores: Scores) -> Tensor | None:
        """Return the native method's log π*, ``[B, K]``, where it is known."""
        return self._native.optimum(batch, scores)

    def fit(self, task: Task) -> TrainRecord:
        """Train by TRL, from the last checkpoint if there is one; leave the weights in ``task.roles``.

        Raises:
            UserError: for settings or adapters that TRL cannot train with.
        """
        from preflab.model.adapters import get_adapter
        from preflab.training.checkpoints import last_checkpoint, remove_checkpoints
        from preflab.training.memory import PeakMemory
        from preflab.training.task import TrainRecord
        from preflab.training.trainer import last_metrics

        trainer, groups = self.build(task)
        started, memory = time.perf_counter(), PeakMemory(task.roles.device)
        trainer.train(resume_from_checkpoint=last_checkpoint(task.folder, trainer.args.max_steps))
        seconds, peak = time.perf_counter() - started, memory.peak()
        task.roles.set_state(self.needs.trains[0], get_adapter(trainer.model, "default"))
        remove_checkpoints(task.folder)

        # A prompt counts once, as in the native loop, though TRL runs it with each response.
        prompts, sampled = sum(len(g.prompt_ids) for g in groups), 0
        if self.needs.responses == "sampled":
            # The state's count holds each prompt once per sample; it is kept in checkpoints.
            sampled = trainer.state.num_input_tokens_seen - self.config.samples_per_prompt * prompts
        given = sum(len(ids) for g in groups for ids in g.response_ids)
        counts = {
            "tokens": prompts + given + sampled,
            "trained_tokens": given + sampled,
            "prompts": len(groups),
            "responses": sum(len(g.response_ids) for g in groups),
            "pairs": sum(len(g.response_ids) > 1 for g in groups) if self.needs.unit == "prompt" else 0,
        }
        if self.needs.responses == "sampled":
            counts["responses"] = self.config.samples_per_prompt * len(groups)
        passes = trainer.state.global_step * task.train.optimiser_batch / len(groups)
        return TrainRecord(
            steps=trainer.state.global_step,
            seconds=seconds,
            sampled_tokens=sampled,
            peak_memory_bytes=peak,
            final=last_metrics(trainer),
            **{name: round(passes * count) for name, count in counts.items()},
        )

    def check_budget(self, budget: Budget) -> None:
        """See that TRL's loop can be told where such a budget ends.

        Raises:
            UserError: unless it is one of tokens that are given, which can be counted beforehand.
        """
        if budget.kind != "tokens" or self.needs.responses == "sampled":
            raise UserError(
                f"{self.backing.trainer} of TRL can be held to no budget of {budget.kind} here; tokens of given "
                "responses alone are known beforehand. Leave it out, or match in tokens"
            )

    def build(self, task: Task) -> tuple[Any, list[EncodedGroup]]:
        """Return the TRL trainer, ready to train, and the rows (or prompts) it reads, in order."""
        from datasets import Dataset

        from preflab.training.budget import Budget
        from preflab.training.callbacks import watch
        from preflab.training.trl_model import copy_for_trl, set_reference

        budget = Budget.of(task.train)
        if budget is not None:
            self.check_budget(budget)
        role, samples = self.needs.trains[0], self.needs.responses == "sampled"
        if not self.backing.scalar and hasattr(task.roles.model.get_output_embeddings(), "lora_A"):
            raise UserError("TRL cannot train an adapter on lm_head; take lm_head out of target_modules")
        groups, steps = _sampled_groups(self, task) if samples else _given_groups(task)
        read = _mismatched(groups, task) if self.needs.responses == "single" else groups
        rewards = {"reward_funcs": _reward_function(task, self.config.samples_per_prompt)} if samples else {}
        arguments = _arguments(self.backing, self.config, task, steps, samples)
        try:
            trainer = _trainer_class(self.backing, self.config)(
                model=copy_for_trl(task, role, self.backing.scalar),
                args=arguments,
                train_dataset=Dataset.from_list([self.backing.row(group) for group in read]),
                processing_class=_tokenizer(task, self.backing.scalar),
                **rewards,
            )
        except ValueError as error:
            raise UserError(f"{self.backing.trainer} of TRL refuses these settings: {error}") from error
        set_reference(trainer.model, task.roles)
        watch(trainer, task.title, task.folder, self.metrics)
        if task.snapshots:
            trainer.add_callback(_snapshots(trainer, task, role))
        return trainer, groups


# ---- what TRL reads ----------------------------------------------------------------------------------


def _given_groups(task: Task) -> tuple[list[EncodedGroup], int]:
    """Return the rows of an offline run in the native order, and the optimiser steps."""
    from preflab.training.offline import OfflineSource

    if any(group.feedback.get("preference", 1.0) != 1.0 for group in task.groups):
        raise UserError("TRL has no soft labels; take a native method for preferences that are probabilities")
    source = OfflineSource(task.groups, task.train, task.tokenizer.pad_token_id, task.seed)
    steps = _steps(task, source)
    return [task.groups[row] for row in source.order.take(0, steps * task.train.optimiser_batch)], steps


def _steps(task: Task, source: Any) -> int:
    """Return the optimiser steps of a run; of a budget of given tokens, those that spend it."""
    from preflab.training.arguments import total_steps

    train, batch = task.train, task.train.optimiser_batch
    if train.budget is None:
        return total_steps(train, source)
    spent = steps = 0
    while spent < train.budget:
        rows = [task.groups[row] for row in source.order.take(steps * batch, batch)]
        spent += sum(len(group.prompt_ids) + sum(map(len, group.response_ids)) for group in rows)
        steps += 1
    return steps


def _mismatched(groups: list[EncodedGroup], task: Task) -> list[EncodedGroup]:
    """Return the groups with another prompt's response at index 1, found within each micro-batch."""
    from preflab.training.offline import mismatched

    micro = task.train.micro_batch
    return [group for at in range(0, len(groups), micro) for group in mismatched(groups[at : at + micro])]


def _sampled_groups(algorithm: Any, task: Task) -> tuple[list[EncodedGroup], int]:
    """Return the prompts of an on-policy run in the native order, whole rollouts of them, and the steps."""
    from preflab.data.encoding import EncodedGroup
    from preflab.training.rollouts import RolloutSource

    no_sampler: Any = None  # TRL samples by itself
    source = RolloutSource(algorithm, algorithm.needs, task.roles, no_sampler, task.prompts, task.train, task.seed)
    steps = _steps(task, source)
    count = math.ceil(steps / source.steps_per_rollout) * algorithm.config.rollout_prompts
    return [EncodedGroup(task.prompts[row], [], row) for row in source.order.take(0, count)], steps


def _reward_function(task: Task, k: int) -> Callable[..., list[float]]:
    """Return what gives our rewards as TRL calls one; the k samples of a prompt come one after another."""
    from preflab.data.batches import collate
    from preflab.data.encoding import EncodedGroup
    from preflab.model.in_parts import score_in_parts

    def reward(
        prompts: list[list[int]], completion_ids: list[list[int]], log_metric: Callable[[str, float], None], **_: Any
    ) -> list[float]:
        groups = [EncodedGroup(prompts[i], completion_ids[i : i + k], i) for i in range(0, len(prompts), k)]
        batch = collate(groups, task.tokenizer.pad_token_id).to(task.roles.device)
        rewards = score_in_parts(task.roles, batch, ("reward",), task.train.micro_batch).rewards
        for name, mean in task.roles.reward_metrics().items():
            log_metric(name, (mean.total / mean.items).item())
        ended = [ids[-1] in task.ends for ids in completion_ids]
        log_metric("ended", sum(ended) / len(ended))
        log_metric("zero_variance_groups", (rewards.std(1) == 0).float().mean().item())
        return list(rewards.flatten().tolist())

    return reward


def _tokenizer(task: Task, scalar: bool) -> Any:
    """Return a copy of the tokenizer for TRL to change; a classifier's pads as the native reward model reads.

    Raises:
        UserError: if every token ends some response, and the base's config names no padding.
    """
    if not scalar:
        return copy.deepcopy(task.tokenizer)
    endings = {ids[-1] for group in task.groups for ids in group.response_ids}
    tokenizer = classifier_tokenizer(task.tokenizer, padding_of(task.roles.model), endings)
    if tokenizer is None:
        raise UserError("every token ends some response; TRL's classifier has none left to pad with")
    return tokenizer


def _snapshots(trainer: Any, task: Task, role: Any) -> Any:
    """Return what keeps the trained adapter on the way, in the format of the native loop."""
    from preflab.model.adapters import get_adapter
    from preflab.training.snapshots import TakeSnapshots

    def save(folder: Path) -> None:
        task.roles.set_state(role, get_adapter(trainer.model, "default"))
        task.roles.save(role, folder / role)

    return TakeSnapshots(task.snapshots, task.folder, save)


# ---- the trainer -------------------------------------------------------------------------------------


def _trl() -> Any:
    """Import TRL with its usage statistics off: its trainers report themselves to the hub when made."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import trl
    from huggingface_hub import constants

    # The environment was read when huggingface_hub was imported, which may have been long ago.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return trl


def _trainer_class(backing: Backing, config: Any) -> Any:
    """Return TRL's trainer with its tokenisation bypassed and its metrics under our names."""
    base: Any = getattr(_trl(), backing.trainer)

    class Backed(base):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            # The rows are what TRL's tokenisation would return, made by our encoder.
            return dataset

        def _tokenize_prompts(self, prompts: Any) -> Any:
            # So are the prompts that responses are sampled for; there are no images and no other fields.
            return prompts, None, {}

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Write none: a stage's folder says itself what it is."""

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            gathered = self._metrics["train"]
            for theirs, ours in backing.metrics(config).items():
                if theirs in gathered:
                    gathered[ours.name] = [ours.scale * value for value in gathered.pop(theirs)]
                elif theirs in logs:
                    logs[ours.name] = ours.scale * logs[theirs]
            super().log(logs, start_time)

    return Backed


def _arguments(backing: Backing, config: Any, task: Task, steps: int, samples: bool) -> Any:
    """Return TRL's config; what decides a result is set, and the data are read in the order given."""
    from preflab.training.arguments import argument_fields, on_one_device

    fields = {
        "gradient_checkpointing": task.train.gradient_checkpointing,
        "pad_to_multiple_of": None,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": task.roles.device.type == "cuda",
        **backing.fields(config, task),
    }
    try:
        shared = argument_fields(task.train, steps, task.folder, task.seed, task.roles.device)
        if samples:
            fields |= _sampling_fields(config, task)
            # TRL counts samples where we count prompts.
            fields["per_device_train_batch_size"] = (
                shared.pop("per_device_train_batch_size") * config.samples_per_prompt
            )
        return on_one_device(getattr(_trl(), backing.config)(**fields, **shared))
    except (TypeError, ValueError) as error:
        raise UserError(f"training settings are not accepted by {backing.config} of TRL: {error}") from error


def _sampling_fields(config: Any, task: Task) -> dict[str, Any]:
    """Return the fields of TRL's config by which it samples what the native rollout would: unfiltered."""
    return {
        "num_generations": config.samples_per_prompt,
        "steps_per_generation": config.rollout_prompts // task.train.micro_batch,
        "num_iterations": config.rollout_epochs,
        "max_completion_length": task.max_response_tokens,
        "temperature": config.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "generation_kwargs": None,
        "shuffle_dataset": False,
        "use_vllm": False,
        "use_transformers_continuous_batching": False,
        "reward_weights": None,
        "mask_truncated_completions": False,
        "sync_ref_model": False,
        "log_completions": False,
        "disable_dropout": True,
    }
