"""What a stage keeps of the roles that it has trained: adapters, with a tokenizer and a model card beside each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from preflab.disk.files import write_text
from preflab.experiment.cards import NAME, SCALAR, Trained, card_of
from preflab.method.contract import Role
from preflab.model.roles import Roles
from preflab.scoring.padding import classifier_tokenizer, padding_of

logger = logging.getLogger(__name__)


def save_roles(
    roles: Roles, trains: Sequence[Role], tokenizer: Any, ends: Collection[int], trained: Trained, folder: Path
) -> None:
    """Write each role that was trained as a folder that other programs open by itself.

    Args:
        roles: hold the weights.
        trains: which roles.
        tokenizer: that they were trained with: template, end and padding.
        ends: tokens that responses end in.
        trained: what the cards say; of each role its own.
        folder: the stage's.
    """
    for role in trains:
        roles.save(role, folder / role)
        own = classifier_tokenizer(tokenizer, padding_of(roles.model), ends) if role in SCALAR else tokenizer
        save_beside(own, trained._replace(role=role), folder / role)


def save_beside(tokenizer: Any, trained: Trained, folder: Path) -> None:
    """Write tokenizer and card into an adapter's folder; where one cannot be written the weights are kept all the same.

    Args:
        tokenizer: None where there is none that pads.
        trained: what the card says.
        folder: the adapter's.
    """
    # Tokenizers and methods may be anybody's code, and hours of training are not lost by what is said of them.
    try:
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
    except Exception as error:
        logger.warning("%s: the tokenizer could not be saved beside the weights: %s", trained.stage, error)
    try:
        text = card_of(trained).text()
    except Exception as error:
        logger.warning("%s: its model card could not be made: %s", trained.stage, error)
    else:
        write_text(folder / NAME, text)
