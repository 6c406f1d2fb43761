"""Whether a model has room for the prompts and responses that a world gives it."""

from __future__ import annotations

from pathlib import Path

from preflab.errors import UserError
from preflab.worlds import WorldConfig


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
