"""``--snapshots``: methods followed over training, for over-optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from preflab.eval.pipeline.yardsticks import subject_of
from preflab.eval.subjects import Ground, Subject, evaluate_subject
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.contestant import Contestant
    from preflab.method.configured import Method
    from preflab.training.snapshots import Snapshot


@dataclass(frozen=True)
class CourseConfig:
    """What is measured of policies on their way."""

    snapshots: int = option(
        0,
        "keep every policy's adapter so many times on the way and evaluate these too, for the law of "
        "over-optimisation; 0: none",
        minimum=0,
        maximum=10_000,
    )
    snapshot_prompts: int = option(128, "the first so many of eval_prompts, which snapshots answer", minimum=2)

    def __post_init__(self) -> None:
        if self.snapshots == 1:
            raise ValueError("snapshots is 1; the law takes three points: the end, and 2 snapshots or more")


def taken(config: CourseConfig, method: Method) -> int:
    """Return how many snapshots a method's training takes: only policies are followed."""
    return config.snapshots if method.needs.trains[0] == "policy" else 0


def follow(
    grounds: Sequence[Ground], config: CourseConfig, method: Method, stages: Sequence[Stage]
) -> list[Contestant]:
    """Evaluate what every seed kept on the way, by the call that the end is evaluated by, on fewer prompts.

    A method that trains nothing, or brings a trainer that takes no snapshots, kept none.
    """
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.comparison.laws import mean_step
    from preflab.training.snapshots import snapshots

    kept = [{snapshot.number: snapshot for snapshot in snapshots(stage.folder)} for stage in stages]
    course = []
    for number in sorted(set.intersection(*map(set, kept))):
        at = [by_number[number] for by_number in kept]
        records = [
            evaluate_subject(*on_the_way(ground, config, method, stage, snapshot))
            for ground, stage, snapshot in zip(grounds, stages, at, strict=True)
        ]
        varied = {"step": mean_step([snapshot.step for snapshot in at])}
        course.append(Contestant(method.label, records, varied=varied))
    return course


def on_the_way(
    ground: Ground, config: CourseConfig, method: Method, stage: Stage, at: Snapshot
) -> tuple[str, Subject, Ground]:
    """Return what the evaluation of a snapshot is called, what is evaluated, and where: by its answers alone."""
    prompts = min(ground.config.eval_prompts, config.snapshot_prompts)
    name, key = (f"{text}-step{at.step}" for text in (stage.name, stage.key))
    subject = subject_of(method, stage._replace(name=name, key=key, folder=at.folder))
    return name, subject, ground._replace(config=replace(ground.config, eval_prompts=prompts, eval_pairs=2))
