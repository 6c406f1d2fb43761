"""TRL's own trainers under our interface: same data, order, adapters, budget and evaluation.

A method here is the native one (its ``Config``, ``needs`` and ``loss``) with a `fit` that hands the
work to a TRL trainer. What sets one trainer apart from another is a `Backing`, plain data; nothing
below it knows a trainer by name. TRL's usage statistics are off.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from algorithms.dpo import DPO
from algorithms.reward import Reward
from preflab import UserError

if TYPE_CHECKING:
    from preflab.encoding import EncodedGroup
    from preflab.interface import Role
    from preflab.roles import Roles
    from preflab.trainer import Task, TrainRecord


@dataclass(frozen=True)
class Backing:
    """What sets one TRL trainer apart from another.

    Attributes:
        trainer: name of the trainer's class in `trl`.
        config: name of its config's class.
        row: one encoded group as the columns the trainer makes when it tokenises.
        scalar: trains a classifier with one label in place of a language model.
        fields: fields of its config that follow from the method's own config.
        metrics: our name of each of its metrics that is one of ours, and the factor to our unit.
    """

    trainer: str
    config: str
    row: Callable[[EncodedGroup], dict[str, list[int]]]
    scalar: bool = False
    fields: Callable[[Any], dict[str, Any]] = lambda config: {}
    metrics: Callable[[Any], Mapping[str, tuple[str, float]]] = lambda config: {}


class TRLBacked:
    """The `fit` of every method here; stands before the native method among a class's bases."""

    backing: ClassVar[Backing]

    def fit(self: Any, task: Task) -> TrainRecord:
        """Train by TRL, from the last checkpoint if there is one; leave the weights in ``task.roles``.

        Raises:
            UserError: for settings or adapters that TRL cannot train with.
        """
        from preflab.adapters import get_adapter
        from preflab.memory import PeakMemory
        from preflab.trainer import TrainRecord, last_checkpoint, last_metrics

        trainer, groups = self.build(task)
        started, memory = time.perf_counter(), PeakMemory(task.roles.device)
        trainer.train(resume_from_checkpoint=last_checkpoint(task.folder, trainer.args.max_steps))
        seconds, peak = time.perf_counter() - started, memory.peak()
        task.roles.set_state(self.needs.trains[0], get_adapter(trainer.model, "default"))
        # A prompt counts once, as in the native loop, though TRL runs it with each response.
        tokens = sum(len(g.prompt_ids) + sum(map(len, g.response_ids)) for g in groups)
        return TrainRecord(trainer.state.global_step, seconds, tokens, 0, peak, last_metrics(trainer))

    def build(self: Any, task: Task) -> tuple[Any, list[EncodedGroup]]:
        """Return the TRL trainer, ready to train, and the rows it reads, in order."""
        from datasets import Dataset

        from preflab.callbacks import watch
        from preflab.sources import OfflineSource
        from preflab.trainer import total_steps

        role = self.needs.trains[0]
        if not self.backing.scalar and hasattr(task.roles.model.get_output_embeddings(), "lora_A"):
            raise UserError("TRL cannot train an adapter on lm_head; take lm_head out of target_modules")
        source = OfflineSource(task.groups, task.train, task.tokenizer.pad_token_id, task.seed)
        steps = total_steps(task.train, source)
        groups = [task.groups[row] for row in source.shard.take(0, steps * task.train.optimiser_batch)]
        trainer = _trainer_class(self.backing, self.config)(
            model=_model(task.roles, role, self.backing.scalar),
            args=_arguments(self.backing, self.config, task, steps),
            train_dataset=Dataset.from_list([self.backing.row(group) for group in groups]),
            processing_class=_tokenizer(task),
        )
        _set_reference(trainer.model, task.roles)
        watch(trainer, task.title, task.folder)
        return trainer, groups


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

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            gathered = self._metrics["train"]
            for theirs, (ours, factor) in backing.metrics(config).items():
                if theirs in gathered:
                    gathered[ours] = [factor * value for value in gathered.pop(theirs)]
            super().log(logs, start_time)

    return Backed


def _arguments(backing: Backing, config: Any, task: Task, steps: int) -> Any:
    """Return TRL's config; what decides a result is set, and the data are read in the order given."""
    from preflab.trainer import argument_fields

    try:
        return getattr(_trl(), backing.config)(
            gradient_checkpointing=task.train.gradient_checkpointing,
            max_length=None,
            pad_to_multiple_of=None,
            disable_dropout=True,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=task.roles.device.type == "cuda",
            **backing.fields(config),
            **argument_fields(task.train, steps, task.folder, task.seed),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"training settings are not accepted by {backing.config} of TRL: {error}") from error


def _tokenizer(task: Task) -> Any:
    """Return a copy of the tokenizer for TRL to change, with padding that ends no response.

    A classifier finds a response's last token by its being no padding: where padding is the end token
    it would read the score one token early.
    """
    tokenizer = copy.deepcopy(task.tokenizer)
    endings = {ids[-1] for group in task.groups for ids in group.response_ids}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in endings:
        free = next(i for i in range(len(tokenizer)) if i not in endings)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(free)
    return tokenizer


def _model(roles: Roles, role: Role, scalar: bool) -> Any:
    """Return a PEFT model of its own on the roles' base weights (shared), with the role as ``default``."""
    from peft import get_peft_model

    from preflab.adapters import set_adapter

    # All that TRL changes in a model but its weights (forward, config, hooks) is changed in a copy.
    shared = {id(parameter): parameter for parameter in roles.peft.parameters()}
    model = copy.deepcopy(roles.peft, shared).unload()
    config = copy.deepcopy(roles.peft.peft_config[role])
    if scalar:
        model, config.task_type = _classifier(model, roles.device), "SEQ_CLS"
    peft_model = get_peft_model(model, config)
    set_adapter(peft_model, "default", roles.state(role))
    return peft_model


def _classifier(model: Any, device: Any) -> Any:
    """Return the model's backbone under a head with one label, float32 as ours."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(f"{type(model).__name__} has no classifier in transformers, which TRL trains") from error
    score = torch.nn.Linear(config.get_text_config().hidden_size, 1, bias=False, device=device)
    score.register_forward_pre_hook(lambda module, states: (states[0].to(torch.float32),))
    setattr(classifier, classifier.base_model_prefix, model.base_model)
    classifier.score = score
    return classifier


def _set_reference(model: Any, roles: Roles) -> None:
    """Make TRL's reference ours: it takes the policy as it starts, or the bare base without ``ref``."""
    from preflab.adapters import set_adapter

    if "ref" in model.peft_config:
        if roles.has("reference"):
            set_adapter(model, "ref", roles.state("reference"))
        else:
            model.delete_adapter("ref")


class TRLDPO(TRLBacked, DPO):
    """DPO by TRL's DPOTrainer (loss type ``sigmoid``)."""

    backing = Backing(
        trainer="DPOTrainer",
        config="DPOConfig",
        row=lambda group: {
            "prompt_ids": group.prompt_ids,
            "chosen_ids": group.response_ids[0],
            "rejected_ids": group.response_ids[1],
        },
        fields=lambda config: {
            "beta": config.beta,
            "loss_type": ["sigmoid"],
            "loss_weights": None,
            "label_smoothing": 0.0,
            "ld_alpha": None,
            "f_divergence_type": "reverse_kl",
            "use_weighting": False,
            "sync_ref_model": False,
            "precompute_ref_log_probs": False,
            "router_aux_loss_coef": 0.0,
        },
        metrics=lambda config: {
            "rewards/accuracies": ("accuracy", 1.0),
            "rewards/margins": ("margin", 1 / config.beta),
            "logps/chosen": ("chosen_logps", 1.0),
            "logps/rejected": ("rejected_logps", 1.0),
        },
    )


class TRLReward(TRLBacked, Reward):
    """Reward modelling by TRL's RewardTrainer, without its optional centring."""

    backing = Backing(
        trainer="RewardTrainer",
        config="RewardConfig",
        row=lambda group: {
            "chosen_ids": group.prompt_ids + group.response_ids[0],
            "rejected_ids": group.prompt_ids + group.response_ids[1],
        },
        scalar=True,
        fields=lambda config: {"center_rewards_coefficient": None},
    )
