"""What a reward is asked: a response, the prompt it answers, and what the data say of that prompt besides."""

from __future__ import annotations

from typing import NamedTuple

from preflab.data.asked import Asked


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
