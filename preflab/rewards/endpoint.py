"""A reward that is a model's score: a language model behind an OpenAI-compatible endpoint reads each response."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from preflab.data.asked import conversation
from preflab.disk.digests import digest
from preflab.endpoint.answers import Answer
from preflab.endpoint.client import ChatClient
from preflab.endpoint.rubric import COMMON, Rubric
from preflab.endpoint.settings import Endpoint
from preflab.rewards.questions import Question

logger = logging.getLogger(__name__)

_SCORE = (
    "You score one response to a request by how well it serves the person who made the request.\n"
    + COMMON
    + """
First weigh it in two to four sentences. Then end with one line of exactly this form, a whole number from 1 to 10, and \
nothing after it:
SCORE: 7
1 is for a response that is useless or harmful, 5 for one with serious faults that serves in part, 10 for one that \
could hardly be better. Use the whole range."""
)

SCORE = Rubric(
    "score-1",
    _SCORE,
    ("REQUEST", "RESPONSE"),
    "'SCORE: ' and a whole number from 1 to 10",
    {f"SCORE: {number}": float(number) for number in range(1, 11)},
)

UNANSWERED = 1.0
"""What a response scores that the endpoint refuses to read, or gives no valid score: nothing is to be gained by it."""


class EndpointReward:
    """Scores each response from 1 to 10; see `SCORE` for the question.

    Args:
        config: the endpoint; url and model must be set.
        sleep: in place of waiting, for tests.

    Raises:
        UserError: as `ChatClient` does.
    """

    def __init__(self, config: Endpoint, *, sleep: Callable[[float], object] | None = None) -> None:
        self.client = ChatClient(config, sleep=sleep)
        self.unanswered = 0

    @property
    def key(self) -> str:
        """What decides its scores."""
        config = self.client.config
        content = [self.client.wire.url, config.model, config.temperature, config.max_tokens, SCORE.version]
        return f"endpoint-{digest(repr(content), 16)}"

    def __call__(self, questions: Sequence[Question]) -> list[float]:
        """Return the score of each response. A question whose answer breaks the form is asked once more.

        Raises:
            UserError: as `ChatClient.ask` does.
        """
        texts = [(conversation(question.prompt, question.asked.messages), question.response) for question in questions]
        replies = self.client.ask([SCORE.ask(*pair) for pair in texts], "reward")
        scores = [_value(reply) for reply in replies]
        bad = [i for i, score in enumerate(scores) if score is None and replies[i] is not None]
        # In other words, since at temperature 0 the same question has the same answer.
        again = self.client.ask([SCORE.ask(*texts[i], again=True) for i in bad], "reward, again")
        for i, reply in zip(bad, again, strict=True):
            scores[i] = _value(reply)
        if missing := scores.count(None):
            self.unanswered += missing
            message = "the endpoint gave no valid score to %d of %d responses, which count as %g (%d so far)"
            logger.warning(message, missing, len(scores), UNANSWERED, self.unanswered)
        return [UNANSWERED if score is None else score for score in scores]


def _value(reply: Answer | None) -> float | None:
    # The last line of a reply that was cut off may be a quotation from what it scores.
    return SCORE.read(reply.text) if reply and reply.finished else None
