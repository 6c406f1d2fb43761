"""What training spends: tokens, FLOPs, seconds; and budgets that stop it once so much is spent.

FLOPs are counted from the model's shape and the real (not padded) tokens of every pass that is made; the
formulas and what they leave out stand in ``docs/budgets.md``. No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.errors import UserError
from preflab.method.configured import Method

if TYPE_CHECKING:
    from preflab.method.contract import Batch, Unit

Kind = Literal["tokens", "flops", "time"]

MEASURES: dict[str, str] = {"tokens": "tokens", "flops": "flops", "time": "seconds"}
"""Which figure of a training record a budget of each kind limits."""


# ---- budgets -----------------------------------------------------------------------------------------


class Budget(NamedTuple):
    """So much and no more.

    Attributes:
        kind: what is limited: tokens through training passes, FLOPs, or seconds.
        amount: how much of it.
    """

    kind: Kind
    amount: float

    @classmethod
    def of(cls, train: Any) -> Budget | None:
        """Return the budget in a `TrainConfig`; None where steps or epochs end the run."""
        return None if train.budget is None else cls(train.budget_kind, train.budget)

    def share(self, costs: Mapping[str, float]) -> float:
        """Return which part of it is spent, given the costs so far; 1 or more: all of it."""
        return costs[MEASURES[self.kind]] / self.amount


def spent_by(record: Mapping[str, Any], kind: Kind, name: str) -> Budget:
    """Return as a budget what a finished run spent.

    Args:
        record: a `TrainRecord`, as a stage keeps it.
        kind: of the budget.
        name: the run's name, for messages.

    Raises:
        UserError: if the run spent nothing of this kind, or nobody counted it.
    """
    amount = record.get(MEASURES[kind])
    if not amount:
        found = "not known" if amount is None else "zero"
        raise UserError(
            f"no budget can be taken from {name}, whose {MEASURES[kind]} are {found}; "
            "name another method first, or give the amount"
        )
    return Budget(kind, float(amount))


def under_budget(method: Method, budget: Budget) -> Method:
    """Return a method that trains until the budget is spent, whatever steps or epochs its settings name.

    Raises:
        UserError: if it brings a trainer that such a budget cannot stop.
    """
    if method.algorithm.kind == "trainer":
        method.algorithm.check_budget(budget)
    train = dataclasses.replace(method.train, budget=budget.amount, budget_kind=budget.kind)
    return Method(method.name, type(method.algorithm), method.config, train)


SCHEDULES_WITHOUT_END = ("constant", "constant_with_warmup", "inverse_sqrt")
RESOLUTION = 1_000_000


def paced(factor: Callable[[float], float], warmup: int, share: Callable[[], float]) -> Callable[[int], float]:
    """Let a schedule made for ``warmup + RESOLUTION`` steps decay over the share of a budget that is spent.

    Nobody knows beforehand at which step a budget ends: rollouts differ in length. Warm-up still counts steps.

    Args:
        factor: the learning rate's factor at a step.
        warmup: steps of warm-up.
        share: which part of the budget is spent.
    """
    return lambda step: factor(step if step < warmup else warmup + RESOLUTION * min(1.0, share()))


# ---- what a loss was given ---------------------------------------------------------------------------


def trained_on(batch: Batch, unit: Unit) -> dict[str, int]:
    """Return what a micro-batch adds to the counts of a `TrainRecord`.

    A prompt counts whenever it is passed through, its tokens once however many responses it has.
    ``pairs`` are prompts whose loss compares two or more responses.
    """
    lengths = batch.response_mask.sum(-1).cpu()
    present = (lengths > 0).sum(1)
    tokens = int(lengths.sum())
    return {
        "tokens": tokens + int(batch.prompt_mask.sum()),
        "trained_tokens": tokens,
        "prompts": int((present > 0).sum()),
        "responses": int(present.sum()),
        "pairs": int((present > 1).sum()) if unit == "prompt" else 0,
    }


# ---- FLOPs -------------------------------------------------------------------------------------------
