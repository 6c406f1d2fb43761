"""All malformed inputs, by area."""

from __future__ import annotations

from benchmarks.faults import (
    adapters,
    configs,
    data,
    endpoints,
    folders,
    judges,
    methods,
    models,
    responses,
    rewards,
    terminal,
)
from benchmarks.faults.cases import Case, distinct

AREAS = {
    "data": data.cases,
    "configs": configs.cases,
    "models": models.cases,
    "adapters": adapters.cases,
    "judges": judges.cases,
    "endpoints": endpoints.cases,
    "rewards": rewards.cases,
    "methods": methods.cases,
    "responses": responses.cases,
    "folders": folders.cases,
    "terminal": terminal.cases,
}


def cases(seed: int) -> list[Case]:
    """Return every malformed input; the same seed gives the same ones, byte for byte."""
    return distinct(case for make in AREAS.values() for case in make(seed))
