"""A batch scored in parts that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from preflab import ranks
from preflab.method.contract import Batch, Role, Scores
from preflab.model.halves import joined
from preflab.model.roles import Roles
from preflab.progress import listed, progress, tracked


@torch.no_grad()
def score_in_parts(roles: Roles, batch: Batch, wanted: Sequence[Role], micro: int) -> Scores:
    """Score a batch by some roles, `micro` prompts at a time, each part cut to its own longest.

    Several processes share the parts. A reward that is a function gets the whole batch at once, from the first process
    alone: calls run side by side, and it may compare responses.
    """
    if "reward" in wanted and roles.reward_function is not None:
        others = [role for role in wanted if role != "reward"]
        found = score_in_parts(roles, batch, others, micro) if others else Scores()
        rewards = ranks.once(lambda: roles(batch, ("reward",)).rewards)
        return found._replace(rewards=rewards.to(batch.prompt_ids.device))
    width, device = batch.response_ids.shape[-1], batch.prompt_ids.device
    starts = range(0, len(batch.prompt_ids), micro)
    shown = partial(tracked, title=f"scores of {listed(wanted)}", unit="batch")
    parts = ranks.spread(starts, lambda at: roles(batch.rows(slice(at, at + micro)), wanted), shown)

    fields = [[x.to(device) for x in field if x is not None] for field in zip(*parts, strict=True)]
    return Scores(*(joined(found, width) if found else None for found in fields))


@torch.no_grad()
def reward_scores(roles: Roles, batch: Batch, size: int) -> Tensor:
    """Return what the role ``reward`` says of each response, as `scored` does."""
    return scored(lambda part: roles(part.to(roles.device), ("reward",)).rewards, batch, size)


def scored(score: Callable[[Batch], Tensor], batch: Batch, size: int) -> Tensor:
    """Return the `score` ``[B, K]`` of each response, float64 on the CPU; several processes share the work.

    A prompt's responses go together, `size` responses at a time.
    """
    many = batch.response_ids.shape[1]
    scores = torch.empty(len(batch.prompt_ids), many, dtype=torch.float64)
    with progress("rewards", many * len(scores), "response") as task:
        for draws in torch.split(torch.arange(many), size):
            index = draws.expand(len(scores), -1)
            part = batch.select(index.to(batch.response_ids.device))

            def shown(rows: Sequence[Tensor], drawn: int = len(draws)) -> Iterator[Tensor]:
                for at in rows:
                    yield at
                    task.advance(len(at) * drawn)

            rows = alike(part, max(1, size // len(draws)))
            for at, found in zip(rows, ranks.spread(rows, partial(_of_rows, score, part), shown), strict=True):
                scores[at[:, None], draws] = found.double().cpu()
    return scores


def _of_rows(score: Callable[[Batch], Tensor], batch: Batch, at: Tensor) -> Tensor:
    return score(batch.rows(at))


def alike(batch: Batch, size: int) -> list[Tensor]:
    """Return the rows of a batch, at most `size` together, those of like length together."""
    length = batch.prompt_mask.sum(-1) + batch.response_mask.sum((1, 2))
    return list(torch.split(length.cpu().argsort(stable=True), size))
