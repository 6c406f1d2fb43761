"""What the compared methods were given: which quantities are equal, which are not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from preflab.eval.records.comparison import Budgets, Charge
from preflab.training.budget import MEASURES

Record = Mapping[str, Any]

TOLERANCE = 0.02

QUANTITIES: dict[str, str] = {
    "steps": "optimiser steps",
    "prompts": "prompts",
    "pairs": "compared pairs",
    "responses": "responses",
    "tokens": "tokens through training",
    "trained_tokens": "trained response tokens",
    "sampled_tokens": "sampled tokens",
    "flops": "FLOPs",
    "seconds": "wall time",
    "peak_memory_bytes": "peak memory",
}
"""Figures of a training record, and what a sentence calls them."""

SETTINGS = "settings tried"

CHARGED = ("tokens", "flops", "seconds")
"""What is added up over a method and all that it stands on: a peak is no sum, and steps of stages differ."""


class Below(NamedTuple):
    """A stage that methods stand on: the policy they start from, or the reward models they maximise.

    Attributes:
        name: what a sentence calls it.
        records: training records of its parts: several for an ensemble.
        users: the methods that stand on it.
        redrawn: whether every seed has its own; `records` are those of all then.
        seeds: how many seeds' records there are.
    """

    name: str
    records: Sequence[Record]
    users: Sequence[str]
    redrawn: bool = False
    seeds: int = 1


def compare_budgets(
    methods: Mapping[str, Sequence[Record]],
    matched: str = "none",
    tried: Mapping[str, int] | None = None,
    below: Sequence[Below] = (),
) -> Budgets:
    """Say what was equal between methods: the largest mean over seeds exceeds the smallest by at most 2 %.

    Args:
        methods: training records of each method, one a seed. Methods that took no step (best-of-n, say) are
            named but not compared.
        matched: ``none``, or what was meant to be equal: ``tokens``, ``flops`` or ``time``.
        tried: how many settings of its hyper-parameters each method was tried with; one if it is not named.
        below: the stages that they stand on.

    Returns:
        Quantities as `QUANTITIES` calls them, and ``settings tried``.
    """
    trained = {name: records for name, records in methods.items() if any(record["steps"] for record in records)}
    settings = {name: (tried or {}).get(name, 1) for name in trained}
    values = {said: [_mean(records, name) for records in trained.values()] for name, said in QUANTITIES.items()}
    values[SETTINGS] = [float(count) for count in settings.values()]
    found: dict[str, list[str]] = {"equal": [], "unequal": [], "unknown": []}
    for said, means in values.items():
        known = [mean for mean in means if mean is not None]
        found["unknown" if len(known) < len(means) else "equal" if _equal(known) else "unequal"].append(said)
    result = Budgets(
        matched=matched,
        equal=tuple(found["equal"]),
        unequal=tuple(found["unequal"]),
        unknown=tuple(found["unknown"]),
        untrained=tuple(name for name in methods if name not in trained),
        stands_on={name: tuple(stage.name for stage in below if name in stage.users) for name in methods},
        charged={
            name: {what: charge(what, name, records, below) for what in CHARGED} for name, records in methods.items()
        },
        sentence="",
    )
    return replace(result, sentence=_sentence(result, values, settings))


def charge(what: str, method: str, records: Sequence[Record], below: Sequence[Below]) -> Charge:
    """Return what a method took of something, with the stages that it stands on.

    Args:
        what: the figure of a training record.
        method: its name.
        records: its training records, one a seed.
        below: the stages that methods stand on.
    """
    own = _mean(records, what) if any(record["steps"] for record in records) else 0.0
    used = [stage for stage in below if method in stage.users]
    costs = [(_sum(stage.records, what), stage) for stage in used]
    if own is None or any(cost is None for cost, _ in costs):
        return Charge(own, None, None)
    # Of each seed, as the method's own cost is.
    known = [(cost / stage.seeds, len(stage.users)) for cost, stage in costs if cost is not None]
    return Charge(own, own + sum(cost for cost, _ in known), own + sum(cost / users for cost, users in known))


def _sum(records: Sequence[Record], name: str) -> float | None:
    values = [record.get(name) for record in records]
    return None if None in values else float(sum(values))  # type: ignore[arg-type]


def _mean(records: Sequence[Record], name: str) -> float | None:
    values = [record.get(name) for record in records]
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def _equal(values: Sequence[float]) -> bool:
    return not values or max(values) <= (1 + TOLERANCE) * min(values)


def _sentence(result: Budgets, values: Mapping[str, Sequence[float | None]], settings: Mapping[str, int]) -> str:
    if len(settings) < 2:
        return "Fewer than two methods were trained: there are no budgets to compare."
    apart = [f"{said} ({how_far_apart(values[said])})" for said in result.unequal if said != SETTINGS]
    parts = [
        *_matched(result),
        f"equal within {TOLERANCE:.0%}: {_listed(result.equal)}",
        f"unequal: {_listed(apart)}",
    ]
    if result.unknown:
        parts.append(f"not counted by every method: {_listed(result.unknown)}")
    if SETTINGS in result.unequal:
        parts.append(f"settings tried: {', '.join(f'{count} of {name}' for name, count in settings.items())}")
    if result.untrained:
        parts.append(f"not trained: {_listed(result.untrained)}")
    if whole := _whole(result):
        parts.append(whole)
    return f"Budgets of {len(settings)} methods: {'; '.join(parts)}."


def _whole(result: Budgets) -> str:
    """Return what methods cost with all that they stand on, in FLOPs, or in seconds where these were not counted."""
    if not any(result.stands_on.values()):
        return ""
    counted = all(charges["flops"].alone is not None for charges in result.charged.values())
    what, unit = ("flops", "FLOPs") if counted else ("seconds", "s")
    charges = {name: found[what] for name, found in result.charged.items()}
    if any(charge.alone is None or charge.shared is None for charge in charges.values()):
        return "with the stages that methods stand on: not counted by every one"
    said = [
        f"{name} {charge.alone:.2g} {unit}{f' ({_listed(result.stands_on[name])})' if result.stands_on[name] else ''}"
        for name, charge in charges.items()
    ]
    alone = [charge.alone or 0.0 for charge in charges.values()]
    apart = f", {max(alone) / min(alone):.2g} times apart" if min(alone) > 0 else ""
    return f"with all that each stands on: {', '.join(said)}{apart}"


def _matched(result: Budgets) -> list[str]:
    """Return whether what was meant to be equal is."""
    if result.matched not in MEASURES:
        return []
    said = QUANTITIES[MEASURES[result.matched]]
    if said in result.unknown:
        return [f"meant to be matched in {said}, which not every method counted"]
    if said in result.equal:
        return [f"matched in {said}"]
    return [f"meant to be matched in {said}, which differ by more than {TOLERANCE:.0%}"]


def how_far_apart(values: Sequence[float | None]) -> str:
    """Return how far apart the extremes of a quantity are, in words."""
    known = [value for value in values if value is not None]
    if min(known) == 0:
        return "none for some"
    ratio = max(known) / min(known)
    # Rounded up: what is unequal never reads as the difference that still counts as equal.
    return f"up to {ratio:.3g} times" if ratio >= 1.1 else f"up to {math.ceil(1000 * (ratio - 1) - 1e-9) / 10:g} % more"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
