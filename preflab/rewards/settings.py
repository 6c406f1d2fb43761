"""Options of a reward of one's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from preflab.endpoint.settings import EndpointOptions
from preflab.rewards.specification import ENDPOINT, MODEL, Part, parse_reward
from preflab.settings.fields import option

OVERTIME_ERROR = "error"


@dataclass(frozen=True)
class RewardOptions(EndpointOptions, prefix="reward_endpoint_"):
    """A reward of one's own, how its functions are called, and the endpoint that is asked."""

    reward: str | None = option(
        None,
        "a reward of your own: file.py:function or package.module:function, 'endpoint' (a model's scores, see "
        "reward_endpoint_url), or a weighted sum such as a.py:f=0.7,endpoint=0.3 with 'model' for the reward model "
        "(normalised, the others as they are). With dataset, policies maximise it; without, pairs of the model's own "
        "samples are labelled by it",
    )
    reward_workers: int = option(
        0,
        "processes that call a function side by side; 0: this one (async: calls under way, 0: 64)",
        minimum=0,
        maximum=1024,
    )
    reward_timeout: float | None = option(
        None, "seconds that a call may take; then its process is killed", minimum=0.001, maximum=86_400.0
    )
    reward_on_timeout: str = option(
        OVERTIME_ERROR, "what a call scores that took longer: a number, or error, which ends the run"
    )
    reward_endpoint_cache: str = option("~/.cache/preflab/reward", "folder where answers are kept between runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.reward_parts
        functions, endpoint = any(part.is_function for part in parts), any(part.source == ENDPOINT for part in parts)
        for field in fields(RewardOptions):
            if field.name == "reward" or getattr(self, field.name) == field.default:
                continue
            if field.name.startswith(self.endpoint_prefix):
                if not endpoint:
                    raise ValueError(f"{field.name} is for the reward 'endpoint', and {self._named()}")
            elif not functions:
                raise ValueError(f"{field.name} is for rewards that are functions, and {self._named()}")
        if self.reward_on_timeout != OVERTIME_ERROR:
            if self.reward_timeout is None:
                raise ValueError("reward_on_timeout says what a call scores after reward_timeout; give that too")
            _ = self.late_score
        if len(parts) == 1 and parts[0].source == MODEL:
            raise ValueError("reward 'model' alone is what policies maximise anyway; leave it out, or add other parts")

    def _named(self) -> str:
        return f"reward is {self.reward!r}" if self.reward else "no reward is given"

    @property
    def reward_parts(self) -> tuple[Part, ...]:
        """The parts of the reward; none where there is none."""
        return parse_reward(self.reward)

    @property
    def reward_is_code(self) -> bool:
        """Whether there is a reward, and it is functions alone: it is then the truth that policies are judged by."""
        return bool(self.reward_parts) and all(part.is_function for part in self.reward_parts)

    @property
    def late_score(self) -> float | None:
        """What a call scores that took too long; None: it ends the run."""
        if self.reward_on_timeout == OVERTIME_ERROR:
            return None
        try:
            number = float(self.reward_on_timeout)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"reward_on_timeout is {self.reward_on_timeout!r}; it must be a number, or error")
        return number
