"""A reward that is a Python function, with the processes and the time limit that a person gives it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from preflab.errors import UserError
from preflab.rewards.calls import CALLS_AT_ONCE, FunctionCaller, described, source_of
from preflab.rewards.questions import Question
from preflab.rewards.settings import RewardOptions
from preflab.rewards.workers import Workers

logger = logging.getLogger(__name__)


class FunctionReward:
    """Scores responses by a Python function.

    Calls run in this process, or, with ``reward_workers`` or ``reward_timeout``, in processes of their own, of which a
    hanging one is killed. A function that is ``async`` runs here; its late calls are cancelled.

    Args:
        place: of the function.
        options: how it is called.

    Raises:
        UserError: if it cannot be imported, or takes no response.
    """

    def __init__(self, place: str, options: RewardOptions) -> None:
        self.place, self.late, self.timeout = place, options.late_score, options.reward_timeout
        self.caller = FunctionCaller(place, options.reward_workers or CALLS_AT_ONCE, self.timeout)
        apart = options.reward_workers or self.timeout is not None
        self._workers = (
            Workers(place, max(1, options.reward_workers), self.timeout)
            if apart and not self.caller.signature.awaited
            else None
        )

    @property
    def key(self) -> str:
        """What decides its scores: its file, and a time limit that scores."""
        late = "" if self.late is None else f"-{self.timeout:g}-{self.late:g}"
        return f"function-{source_of(self.caller.function, self.place)}{late}"

    def __call__(self, questions: Sequence[Question]) -> list[float]:
        """Return the reward of each response.

        Raises:
            UserError: if the function fails, gives no finite number, kills its process, or takes too long and nothing
                else is said.
        """
        if self._workers is None:
            found = self.caller(questions)
        else:
            found = self._workers(self._calls(questions))
        late = [question for question, value in zip(questions, found, strict=True) if value is None]
        if not late:
            return [value for value in found if value is not None]
        what = f"reward {self.place!r} took longer than {self.timeout:g} s for {described(late)}"
        if self.late is None:
            raise UserError(f"{what}; raise --reward-timeout, or give --reward-on-timeout a number")
        logger.warning("%s; scored %g", what, self.late)
        return [self.late if value is None else value for value in found]

    def _calls(self, questions: Sequence[Question]) -> list[Sequence[Question]]:
        """Return which questions go together: one by one, or in as many batches as there are workers."""
        assert self._workers is not None
        size = 1
        if self.caller.signature.batched:
            size = max(1, -(-len(questions) // self._workers.count))
        return [questions[at : at + size] for at in range(0, len(questions), size)]
