"""What a piece of work ends with, and what every result says of how it was made."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab import ranks
from preflab.disk.files import read_object
from preflab.errors import UserError
from preflab.eval.pipeline.session import Session

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.records.comparison import Comparison
    from preflab.eval.records.records import Rows
    from preflab.experiment.experiment import Experiment


logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class Result(NamedTuple):
    """What was found, and what it was read from.

    Attributes:
        comparison: what ``comparison.json`` holds, or, as an `Evaluation`, ``evaluation.json`` (docs/report.md).
        samples: the answers, by method and training seed: rows of ``samples.jsonl``.
        stages: what was trained, one a seed, where one method was; each holds a folder for each role.
    """

    comparison: Comparison
    samples: Mapping[str, Mapping[str, Rows]]
    stages: tuple[Stage, ...] = ()


def samples_of(contestants: Sequence[Contestant]) -> dict[str, dict[str, Rows]]:
    """Return the rows of samples that the report shows, by method and training seed."""
    return {
        contestant.name: {str(seed): records.samples for seed, records in enumerate(contestant.records)}
        for contestant in contestants
        if not contestant.varied and contestant.gives == "policy"
    }


def about(session: Session, experiment: Experiment, **more: Any) -> dict[str, Any]:
    """Return settings (and `more` beside them), data, versions and machine, for a result."""
    from preflab.versions import provenance

    return {"config": {**session.as_dict(), **more}, "data": experiment.data, **provenance()}


def write_manifest(session: Session, experiment: Experiment, **more: Any) -> None:
    """Say in the run folder, before the first stage, what the run is made of, and `more`."""
    from preflab.disk.files import write_result

    if ranks.first():
        write_result(Path(session.run.output) / MANIFEST, {**about(session, experiment), **more})


def looks_so_far(folder: Path) -> list[str]:
    """Return the comparisons that a run folder's test prompts have been used for, by their keys."""
    return ranks.once(partial(_looks, folder))


def _looks(folder: Path) -> list[str]:
    path = folder / MANIFEST
    try:
        before = read_object(path).get("looks") if path.is_file() else []
    except UserError as error:
        logger.warning("%s: how often the test prompts were looked at before is not known", error)
        before = []
    return [key for key in before if isinstance(key, str)] if isinstance(before, list) else []
