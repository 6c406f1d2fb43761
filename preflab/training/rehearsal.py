"""What only the libraries can judge of a method's settings, tried before anything is trained."""

from __future__ import annotations

import dataclasses
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from preflab.errors import UserError
from preflab.errors.answering import INTERRUPTS
from preflab.errors.crash import described
from preflab.method.configured import Method
from preflab.model.base import default_device
from preflab.training.arguments import training_arguments

STEPS = 10
NOT_READ = re.compile(
    "dataloader_.*|eval_.*|per_device_eval.*|hub_.*|push_to_hub|do_.*|load_best_model_at_end|metric_for_best_model|"
    "greater_is_better|resume_from_checkpoint|label_smoothing_factor|label_names|group_by_length|length_column_name|"
    "prediction_loss_only|neftune_noise_alpha|include_.*|batch_eval_metrics|gradient_checkpointing.*|.*_full_eval"
)
"""Fields of `TrainingArguments` that the loop has no use for: it brings its own batches, loss and evaluation."""


def rehearse(method: Method) -> None:
    """Make a trainer of a one-weight model by a method's settings: trackers, optimiser and schedule are set up by them.

    Raises:
        UserError: if the library does not take them, lacks what they ask for, or would not read them here.
    """
    unread = [name for name in method.train.extra if NOT_READ.fullmatch(name)]
    if unread and method.algorithm.kind != "trainer":  # a trainer that a method brings along may read them
        raise UserError(f"{method.name}: extra: {unread[0]} is not read by this project's loop; leave it out")
    _check_kinds(method)
    with tempfile.TemporaryDirectory() as folder, _untouched_randomness():
        try:
            arguments = training_arguments(method.train, STEPS, Path(folder), 0, torch.device(default_device()))
            trainer = Trainer(model=torch.nn.Linear(1, 1), args=arguments)
            trainer.create_optimizer_and_scheduler(STEPS)
        except UserError as error:
            raise UserError(f"{method.name}: {error}") from None
        except BaseException as error:  # whatever a tracker or an optimiser of somebody's raises for being absent
            if type(error) in INTERRUPTS:
                raise
            raise UserError(f"{method.name}: training settings are not accepted: {described(error)}") from error


def _check_kinds(method: Method) -> None:
    """Refuse what the library would take for a truth value without being one, and arguments that no optimiser gets.

    Raises:
        UserError: naming the field.
    """
    extra = method.train.extra
    flags = {field.name for field in dataclasses.fields(TrainingArguments) if isinstance(field.default, bool)}
    for name in sorted(flags & extra.keys()):
        if not isinstance(extra[name], bool):
            raise UserError(f"{method.name}: extra: {name} is {extra[name]!r:.40}; it must be true or false")
    optimiser = str(extra.get("optim", "adamw_torch"))
    if extra.get("optim_args") and optimiser.startswith("adamw_torch"):
        raise UserError(f"{method.name}: extra: optim_args is not read by the optimiser {optimiser}; leave it out")


@contextmanager
def _untouched_randomness() -> Iterator[None]:
    """Put back the state of every generator that the library seeds."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
