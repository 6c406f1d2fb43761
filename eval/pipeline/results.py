"""What a piece of work ends with, and what every result says of how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.pipeline.session import Session

if TYPE_CHECKING:
    from eval.comparison.contestant import Contestant
    from eval.records.comparison import Comparison
    from eval.records.records import Rows
    from preflab.disk.stages import Stage
    from preflab.experiment.experiment import Experiment


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


def write_manifest(session: Session, experiment: Experiment) -> None:
    """Say in the run folder, before the first stage, what the run is made of."""
    from preflab.disk.files import write_result

    write_result(Path(session.run.output) / "manifest.json", about(session, experiment))
