"""A language model behind an endpoint as judge of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from preflab.endpoint.answers import Answer
from preflab.endpoint.client import ChatClient
from preflab.eval.judges.base import JudgeOption
from preflab.eval.judges.rubric import PAIR
from preflab.eval.judges.settings import EndpointConfig

UNDECIDED = 0.5
"""What a question without a valid answer counts as."""


class EndpointJudge:
    """Puts two responses before a model and reads its last line; see `eval.judges.rubric.PAIR` for the question.

    Args:
        config: the endpoint; url and model must be set.
        sleep: in place of waiting, for tests.

    Raises:
        UserError: as `ChatClient` does.
    """

    sees_position = True

    def __init__(self, config: EndpointConfig, *, sleep: Callable[[float], object] | None = None) -> None:
        self.client = ChatClient(config.endpoint(), sleep=sleep)
        self.name = f"{self.client.config.model} (rubric {PAIR.version})"
        self.unparsed = 0

    def prefer(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float | None]:
        """Return 1 where the first response is better, 0.5 for ties and where there is no valid answer, 0 elsewhere.

        A question whose answer breaks the form is asked once more.

        Raises:
            UserError: as `ChatClient.ask` does.
        """
        questions = list(zip(prompts, first, second, strict=True))
        replies = self.client.ask([PAIR.ask(*texts) for texts in questions], self.name)
        values = [_value(reply) for reply in replies]
        bad = [i for i, value in enumerate(values) if value is None and replies[i] is not None]
        # In other words, since at temperature 0 the same question has the same answer.
        second_replies = self.client.ask([PAIR.ask(*questions[i], again=True) for i in bad], f"{self.name}, again")
        for i, reply in zip(bad, second_replies, strict=True):
            values[i] = _value(reply)
            self.unparsed += values[i] is None
        return [UNDECIDED if value is None else value for value in values]

    def report(self) -> dict[str, Any]:
        """Return costs, the rubric's version, and how many questions had no valid answer after two attempts.

        Such questions count as `UNDECIDED`, and so do those whose text the endpoint refused.
        """
        facts = {"judge": self.name, "rubric": PAIR.version, "url": self.client.wire.url}
        return {**facts, "unparsed": self.unparsed, **self.client.costs()}


def _value(reply: Answer | None) -> float | None:
    # The last line of a reply that was cut off may be a quotation from what it judges.
    return PAIR.read(reply.text) if reply and reply.finished else None


def _opened(spec: str, config: EndpointConfig) -> EndpointJudge:
    """Return the endpoint as judge; what its requests will miss is said before a long run."""
    judge = EndpointJudge(config)
    judge.client.wire.try_out()
    return judge


JUDGE = JudgeOption("endpoint", "'endpoint' (see --judge-url)", _opened, settings=EndpointConfig)
