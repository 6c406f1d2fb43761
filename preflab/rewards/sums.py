"""The reward that ``--reward`` names, opened: its parts, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from preflab.data.asked import Asked
from preflab.disk.digests import digest
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.rewards.columns import Wanted, wanted_columns
from preflab.rewards.endpoint import EndpointReward
from preflab.rewards.functions import FunctionReward
from preflab.rewards.questions import Question
from preflab.rewards.settings import RewardOptions
from preflab.rewards.specification import MODEL

Scores = Callable[[Sequence[Question]], list[float]]

EXAMPLES = (("Once upon a time", "Once upon a time"), ("there was a happy dog. He had a big ball.", ""))
"""What a function is tried on. Policies may say nothing at all, so the empty response is too."""


@dataclass(frozen=True)
class RewardPart:
    """An addend of a reward: a score of texts.

    Attributes:
        name: for metrics.
        weight: what it is multiplied by.
        key: what decides it beside the data.
        scores: gives it.
        asked: what the data say of prompts.
    """

    name: str
    weight: float
    key: str
    scores: Scores
    asked: Mapping[str, Asked] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the score of each response, unweighted; equal responses to one prompt are scored once.

        White space around a response is not part of it, here as in the evaluation.
        """
        texts = [(prompt, response.strip()) for prompt, response in zip(prompts, responses, strict=True)]
        unique = list(dict.fromkeys(texts))
        found = self.scores([Question(*pair, self.asked.get(pair[0], Asked())) for pair in unique])
        return list(map(dict(zip(unique, found, strict=True)).__getitem__, texts))


@dataclass(frozen=True)
class OwnReward:
    """A reward of one's own.

    Attributes:
        parts: what scores texts.
        model: the weight of the reward model beside them; 0 where it is no part.
        wanted: which columns of the data it reads.
    """

    parts: tuple[RewardPart, ...]
    model: float = 0.0
    wanted: Wanted = Wanted()

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"reward {' + '.join(part.name for part in self.parts)}"

    @property
    def key(self) -> str:
        """What decides the scores of texts."""
        if len(self.parts) == 1 and self.parts[0].weight == 1:
            return self.parts[0].key
        return digest(repr([(part.weight, part.key) for part in self.parts]), 16)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the weighted sum of the parts that score texts."""
        found = [part(prompts, responses) for part in self.parts]
        weights = [part.weight for part in self.parts]
        return [sum(w * x for w, x in zip(weights, each, strict=True)) for each in zip(*found, strict=True)]

    def reading(self, asked: Mapping[str, Asked], prompts: Collection[str]) -> OwnReward:
        """Return the same reward, told what the data say of prompts.

        Raises:
            UserError: for one of `prompts` without a column that a function must be given.
        """
        for prompt in prompts if self.wanted.required else ():
            columns = asked.get(prompt, Asked()).columns
            if absent := self.wanted.required - set(columns):
                raise UserError(f"--reward asks for the column {min(absent)!r}, and prompt {shown(prompt)} has none")
        return replace(self, parts=tuple(replace(part, asked=asked) for part in self.parts))

    def repeats(self, prompts: Sequence[str] = (), responses: Sequence[str] = ()) -> bool:
        """Call the functions twice, and return whether both give the same.

        Args:
            prompts: to try them on; examples where none are given.
            responses: to these.

        Raises:
            UserError: if one fails.
        """
        prompts, responses = (prompts, responses) if prompts else EXAMPLES
        return all(
            part(prompts, responses) == part(prompts, responses)
            for part in self.parts
            if isinstance(part.scores, FunctionReward)
        )


def open_reward(options: RewardOptions) -> OwnReward | None:
    """Open the reward that the options name; None where they name none.

    Raises:
        UserError: if a function cannot be imported or called, or the endpoint lacks an address, a model or its key.
    """
    parts, model = [], 0.0
    for part in options.reward_parts:
        if part.source == MODEL:
            model = part.weight
            continue
        scores: FunctionReward | EndpointReward
        if part.is_function:
            scores = FunctionReward(part.source, options)
        else:
            scores = EndpointReward(options.endpoint())
            scores.client.wire.try_out()
        parts.append(RewardPart(part.name, part.weight, scores.key, scores))
    return OwnReward(tuple(parts), model, wanted_columns(options.reward)) if parts else None
