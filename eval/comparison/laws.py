"""Over-optimisation of each method: over its training where it was followed, else over the settings of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.frontier import fit_overoptimisation
from preflab.eval.records.frontier import Law
from preflab.eval.records.records import Records


def course(contestant: Contestant, start: Contestant) -> list[Contestant]:
    """Return a method at its start, at each snapshot and at its end, on the prompts that all of these answered.

    The end is the evaluation that the method is compared by, cut to those prompts. None where nothing was followed.
    """
    if not contestant.course:
        return []
    seeds, name = range(len(contestant.records)), contestant.name
    began = Contestant(name, [start.records[seed % len(start.records)] for seed in seeds], varied={"step": 0})
    ended = replace(contestant, varied={"step": mean_step([row["steps"] for row in contestant.training])})
    moments = [began, *contestant.course, ended]
    asked = min(len(records.samples) for moment in moments for records in moment.records)
    return [
        replace(moment, records=[Records(records.samples[:asked], []) for records in moment.records])
        for moment in moments
    ]


def mean_step(steps: Sequence[int]) -> float:
    """Return the step that stands for several seeds': under a budget they may differ."""
    return sum(steps) / len(steps)


def fit_laws(contestants: Sequence[Contestant], start: Contestant) -> dict[str, Law] | None:
    """Return the law of over-optimisation of every method that has two points, or why there is none; None if none has.

    Args:
        contestants: the methods, and what a sweep adds to them.
        start: the policy that training starts from.
    """
    found = {}
    for name in dict.fromkeys(contestant.name for contestant in contestants):
        own = [contestant for contestant in contestants if contestant.name == name]
        followed = next((moments for contestant in own if (moments := course(contestant, start))), [])
        laws = [law for law in (_law(followed, start, "training"), _law(own, start, "settings")) if law is not None]
        if laws:
            found[name] = next((law for law in laws if law.note is None), laws[0])
    return found or None


def _law(points: Sequence[Contestant], start: Contestant, over: str) -> Law | None:
    golds: list[Any] = [point.table("gold") for point in points]
    kls, proxies = [point.kl for point in points], [point.table("proxy") for point in points]
    used = [i for i, gold in enumerate(golds) if gold is not None and kls[i] is not None]
    origin = start.table("gold")
    if origin is None or len(used) < 2:
        return None
    return fit_overoptimisation(
        [kls[i] for i in used],  # type: ignore[misc]
        [golds[i] for i in used],
        origin.mean(0)[: golds[used[0]].shape[1]],
        law="bon" if _untrained(points[-1]) else "rl",
        proxy_reward=None if any(proxies[i] is None for i in used) else [proxies[i] for i in used],  # type: ignore[misc]
        steps=[points[i].varied["step"] for i in used] if over == "training" else None,
    )


def _untrained(contestant: Contestant) -> bool:
    """Whether the method took no step, and so chooses among samples."""
    return bool(contestant.training) and not any(row["steps"] for row in contestant.training)
