"""Our settings as `transformers.TrainingArguments`, which TRL's configs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from preflab.errors import UserError
from preflab.settings.training import MOST_STEPS, TrainConfig
from preflab.training.sources import Source


def argument_fields(
    train: TrainConfig, max_steps: int, folder: Path, seed: int, device: torch.device
) -> dict[str, Any]:
    """Translate our settings to fields of `TrainingArguments`, which TRL's configs share.

    Nothing that decides a result is left to the library's default.

    Args:
        train: our settings.
        max_steps: optimiser steps.
        folder: where to write.
        seed: of the library's own draws.
        device: where the model lies; the library would move it to a GPU.

    Raises:
        TypeError: if ``extra`` repeats a field that has a setting of its own.
    """
    return dict(
        output_dir=str(folder),
        max_steps=max_steps,
        learning_rate=train.learning_rate,
        per_device_train_batch_size=train.micro_batch,
        gradient_accumulation_steps=train.optimiser_batch // train.micro_batch,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_steps,
        optim=train.optim,
        weight_decay=train.weight_decay,
        adam_beta1=train.adam_beta1,
        adam_beta2=train.adam_beta2,
        adam_epsilon=train.adam_epsilon,
        max_grad_norm=train.max_grad_norm,
        logging_steps=min(train.logging_steps, max_steps),
        save_strategy="steps" if train.save_steps else "no",
        save_steps=train.save_steps or 500,
        bf16=train.bf16,
        use_cpu=device.type == "cpu",
        report_to=list(train.report_to),
        seed=seed,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        **train.extra,
    )


def training_arguments(
    train: TrainConfig, max_steps: int, folder: Path, seed: int, device: torch.device
) -> TrainingArguments:
    """Return the arguments of the native loop; arguments as of `argument_fields`.

    Raises:
        UserError: if a field under ``extra`` is unknown to the library.
    """
    try:
        fields = argument_fields(train, max_steps, folder, seed, device)
        # The loop cuts the optimiser batch itself, and may do so anew.
        fields |= {"per_device_train_batch_size": train.optimiser_batch, "gradient_accumulation_steps": 1}
        # Position in the source is a function of the step: nothing needs to be skipped.
        return on_one_device(TrainingArguments(ignore_data_skip=True, **fields))
    except (TypeError, ValueError) as error:
        raise UserError(f"training settings are not accepted: {error}") from error


def on_one_device(arguments: Any) -> Any:
    """Keep a process on one GPU: of several, the library would put a copy of the model on each and split batches."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def total_steps(train: TrainConfig, source: Source) -> int:
    """Return the optimiser steps of a run: `max_steps`, or so many epochs; no bound under a budget."""
    if train.budget is not None:
        return MOST_STEPS
    return train.max_steps if train.max_steps > 0 else max(1, round(train.num_train_epochs * source.steps_per_epoch))
