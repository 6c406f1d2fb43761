"""What a reward is asked: a response, the prompt it answers, and what the data say of that prompt besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from preflab.data.asked import Asked

Messages = Sequence[Mapping[str, Any]]


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
