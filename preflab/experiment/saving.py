"""What a stage keeps of the roles that it has trained: adapters, with a tokenizer and a model card beside each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from preflab.disk.files import write_text
from preflab.experiment.cards import NAME, SCALAR, Trained, card_of
from preflab.method.contract import Role
from preflab.model.roles import Roles
from preflab.scoring.padding import classifier_tokenizer, padding_of
from preflab.tokens.closing import closed_template
from preflab.tokens.portable import portable, write_tokenizer

logger = logging.getLogger(__name__)


def save_roles(
    roles: Roles,
    trains: Sequence[Role],
    tokenizer: Any,
    ends: Collection[int],
    trained: Trained,
    folder: Path,
    *,
    chat: bool = False,
) -> None:
    """Write each role that was trained as a folder that other programs open by itself.

    Args:
        roles: hold the weights.
        trains: which roles.
        tokenizer: that they were trained with: template, end and padding.
        ends: tokens that responses end in.
        trained: what the cards say; of each role its own.
        folder: the stage's.
        chat: whether a chat template wrote the texts.
    """
    for role in trains:
        roles.save(role, folder / role)
        if role in SCALAR:
            write = partial(save_classifier_tokenizer, roles, tokenizer, ends, folder / role, chat=chat)
        else:
            write = partial(tokenizer.save_pretrained, str(folder / role))
        save_beside(write, trained._replace(role=role), folder / role)


def save_beside(write: Callable[[], object], trained: Trained, folder: Path) -> None:
    """Write tokenizer and card into an adapter's folder; where one cannot be written the weights are kept all the same.

    Args:
        write: writes the tokenizer there.
        trained: what the card says.
        folder: the adapter's.
    """
    # Tokenizers and methods may be anybody's code, and hours of training are not lost by what is said of them.
    try:
        write()
    except Exception as error:
        logger.warning("%s: the tokenizer could not be saved beside the weights: %s", trained.stage, error)
    try:
        text = card_of(trained).text()
    except Exception as error:
        logger.warning("%s: its model card could not be made: %s", trained.stage, error)
    else:
        write_text(folder / NAME, text)


def save_classifier_tokenizer(
    roles: Roles, tokenizer: Any, ends: Collection[int], folder: Path, *, chat: bool = False
) -> None:
    """Write the tokenizer beside a reward model so that others read what it was trained on.

    It pads so that they find the token that the model is read at, and its chat template ends dialogues there.

    Args:
        roles: the reward model's base.
        tokenizer: its.
        ends: the tokens that texts end in.
        folder: the reward model's.
        chat: whether a chat template wrote the texts, which nothing is added to.
    """
    found = classifier_tokenizer(tokenizer, padding_of(roles.model), ends)
    if found is None:
        return
    template = closed_template(tokenizer)
    if found.is_fast:
        write_tokenizer(folder, portable(found, adds=not chat), template)
    else:
        found.chat_template = template
        found.save_pretrained(str(folder))
