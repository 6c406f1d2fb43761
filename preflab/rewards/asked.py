"""What a reward is asked: a response, the prompt it answers, and what the data say of that prompt besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Messages = Sequence[Mapping[str, Any]]


class Asked(NamedTuple):
    """What the data say of a prompt beside its text.

    Attributes:
        messages: it as messages, each with ``role`` and ``content``, where a chat template wrote the text; else None.
        columns: further columns of its row, by name, where a reward reads any.
    """

    messages: Messages | None = None
    columns: Mapping[str, Any] = {}


class Question(NamedTuple):
    """One response to be scored.

    Attributes:
        prompt: the prompt's text.
        response: the response's text, without white space around it.
        asked: more of the prompt.
    """

    prompt: str
    response: str
    asked: Asked = Asked()
