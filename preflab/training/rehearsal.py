"""A method tried before anything is trained: its settings, as only the libraries can judge them, and its loss."""

from __future__ import annotations

import dataclasses
import random
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from preflab.errors import UserError
from preflab.errors.answering import INTERRUPTS
from preflab.errors.crash import described
from preflab.method.configured import Method
from preflab.method.contract import Batch, Labels, LossMethod, Role, Rollout, Scores, unit_mask
from preflab.method.plugins import answering, brought_files
from preflab.method.records import FIELDS
from preflab.method.validation import check_loss, check_prepared
from preflab.model.devices import default_device
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
        UserError: if the library does not take them, lacks what they ask for, or would not read them here; for what
            the loss of a method that a person brought along does wrong on made-up scores.
    """
    unread = [name for name in method.train.extra if NOT_READ.fullmatch(name)]
    if unread and method.algorithm.kind != "trainer":  # a trainer that a method brings along may read them
        raise UserError(f"{method.name}: extra: {unread[0]} is not read by this project's loop; leave it out")
    _check_kinds(method)
    algorithm = method.fresh()
    if algorithm.kind == "loss" and brought_files(type(algorithm)):
        with _untouched_randomness():
            try_loss(algorithm, torch.device(default_device()))
    with tempfile.TemporaryDirectory() as folder, _untouched_randomness():
        try:
            arguments = training_arguments(method.train, STEPS, Path(folder), 0, torch.device(default_device()))
            trainer = Trainer(model=torch.nn.Linear(1, 1), args=arguments)
            if method.train.optim.startswith("paged") and arguments.device.type == "cpu":
                raise UserError(f"optim {method.train.optim} pages a GPU's memory, and there is none; take adamw_8bit")
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
    optimiser = method.train.optim
    if extra.get("optim_args") and optimiser.startswith("adamw_torch"):
        raise UserError(f"{method.name}: extra: optim_args is not read by the optimiser {optimiser}; leave it out")


def try_loss(algorithm: LossMethod, device: torch.device) -> None:
    """Call `prepare` and `loss` once, as the loop does, on made-up scores.

    What is wrong with them would else be found when all that a method stands on has been trained.

    Raises:
        UserError: as the loop does.
    """
    needs, batch = algorithm.needs, _made_up_batch(algorithm).to(device)
    if needs.rollout or needs.responses == "sampled":
        ended = batch.response_mask.any(-1)
        with answering(algorithm, "prepare"):
            prepared = algorithm.prepare(Rollout(batch, _made_up_scores(batch, needs.rollout), ended))
        batch = check_prepared(algorithm, prepared, len(ended)).rows(torch.arange(len(ended), device=device))
    if not batch.response_mask.any():
        return  # all was dropped, and the loop asks for no loss of nothing
    scores = _made_up_scores(batch, needs.scores)
    for role in needs.trains:
        scores = scores._replace(**{FIELDS[role]: cast(Tensor, scores.of(role)).requires_grad_()})
    with answering(algorithm, "loss"):
        loss = algorithm.loss(batch, scores)
    check_loss(algorithm, loss, unit_mask(batch, needs.unit))


def _made_up_batch(algorithm: LossMethod) -> Batch[Labels]:
    """Return two prompts, with as many responses as the loop gives them, of two and three tokens, and all labels."""
    responses = algorithm.needs.responses
    sampled = responses == "sampled"
    size = algorithm.config.samples_per_prompt if sampled else {"demonstration": 1, "ranking": 3}.get(responses, 2)
    prompts, ids = torch.ones(2, 3, dtype=torch.long), torch.ones(2, size, 3, dtype=torch.long)
    mask = (torch.arange(3) < torch.tensor([2, 3])[:, None, None]).expand(ids.shape)
    said: dict[str, dict[str, Tensor]] = {
        "single": {"desirable": torch.tensor([1.0, 0.0])},
        "pair": {"preference": torch.tensor([1.0, 0.75]), "margin": torch.ones(2)},
        "ranking": {"rank": torch.arange(3).expand(2, 3)},
    }
    return Batch(prompts, prompts > 0, ids, mask, Labels(**said.get(responses, {})))


def _made_up_scores(batch: Batch[Any], roles: Sequence[Role]) -> Scores:
    """Return scores of some roles, no two alike: of each token, or of each response where the reward says them."""
    mask = batch.response_mask
    tokens = torch.randn(mask.shape, device=mask.device).masked_fill(~mask, 0.0)
    found = {role: -(tokens - place).abs().masked_fill(~mask, 0.0) for place, role in enumerate(roles)}
    return Scores(**{FIELDS[role]: x.sum(-1) if role == "reward" else x for role, x in found.items()})


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
