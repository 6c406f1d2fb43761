"""All malformed inputs, by area."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.faults import (
    adapters,
    configs,
    configs_fields,
    data_files,
    data_forms,
    data_layouts,
    data_rows,
    endpoints,
    folders,
    judges,
    machine,
    methods,
    models,
    models_text,
    responses,
    rewards,
    terminal,
)
from benchmarks.faults.cases import Case, distinct

AREAS: dict[str, tuple[Callable[[int], Iterator[Case]], ...]] = {
    "data": (data_rows.cases, data_files.cases, data_forms.cases, data_layouts.cases),
    "configs": (configs_fields.cases, configs.cases),
    "models": (models.cases, models_text.cases),
    "adapters": (adapters.cases,),
    "judges": (judges.cases,),
    "endpoints": (endpoints.cases,),
    "rewards": (rewards.cases,),
    "methods": (methods.cases,),
    "responses": (responses.cases,),
    "folders": (folders.cases,),
    "machine": (machine.cases,),
    "terminal": (terminal.cases,),
}


def cases(seed: int) -> list[Case]:
    """Return every malformed input; the same seed gives the same ones, byte for byte."""
    return distinct(case for area in AREAS.values() for make in area for case in make(seed))
