"""Whether a model fits what a world gives it: room for prompts and responses, a chat template for dialogues."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.tokens.templates import check_system, own_system
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def check_context(config: WorldConfig) -> None:
    """Refuse token limits that the model's positions cannot hold.

    Raises:
        UserError: for such limits, and for a model whose config cannot be read.
    """
    from transformers import AutoConfig

    model = str(config.model)
    try:
        path = Path(model).expanduser()
        found = AutoConfig.from_pretrained(
            str(path) if path.exists() else model, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model {config.model!r} cannot be loaded: {error}") from None
    room = getattr(found.get_text_config(), "max_position_embeddings", None)
    asked = config.max_prompt_tokens + config.max_response_tokens
    if isinstance(room, int) and asked > room:
        raise UserError(
            f"max_prompt_tokens + max_response_tokens is {asked}, but model {model!r} has {room} positions; "
            "make one smaller"
        )


def check_dialogues(config: WorldConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse options for dialogues that the tokenizer's chat template cannot follow, and say what it does of itself.

    Raises:
        UserError: saying which.
    """
    if not tokenizer.chat_template:
        if config.dialogues == "messages":
            raise UserError(
                f"--dialogues messages needs a chat template, and {config.model!r} has none (--chat-template)"
            )
        return
    if config.system is not None:
        check_system(tokenizer)
    elif own := own_system(tokenizer):
        logger.warning(
            "dialogues without a system prompt get that of the chat template, %s; --system gives another",
            shown(own),
        )
