"""An experiment, and where methods meet, of which nothing is built: they note what would be."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.encoding import EncodedGroup
from preflab.disk.stages import Stage, UnbuiltRun
from preflab.eval.comparison.contests import by_gold
from preflab.eval.judges import Judge, JudgeSpec
from preflab.eval.pipeline.arena import Arena
from preflab.eval.pipeline.judging import Judging
from preflab.eval.pipeline.session import Session
from preflab.execution.graph import Graph, Piece
from preflab.experiment.experiment import Experiment
from preflab.experiment.foundation import Foundation, Replication
from preflab.experiment.opening import with_rows_aside
from preflab.experiment.rewards import Rewards
from preflab.method.configured import Method

if TYPE_CHECKING:
    from preflab.model.roles import Roles

logger = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A stage that would be trained.

    Attributes:
        stage: its name and key.
        method: what is trained.
        how: what it would be given.
        rows: what it would learn from, of its own sample of preferences; None where it samples.
    """

    stage: Stage
    method: Method
    how: dict[str, Any]
    rows: Sequence[EncodedGroup] | None


class Outline(Experiment):
    """An experiment of which nothing is built: it says what would be.

    Attributes:
        trained: stages that would be trained, by their keys, with what they would be given.
        scored: rows that the reference would score, by the keys of the stages.
    """

    run: UnbuiltRun

    def __init__(self, session: Session, methods: Sequence[Method], *, tuned: bool = False) -> None:
        run, world = UnbuiltRun(Path(session.run.output)), with_rows_aside(session.world, methods, tuned=tuned)
        super().__init__(run, world, session.lora, Path(session.run.cache))
        self.trained, self.scored = dict[str, Trained](), dict[str, Sequence[EncodedGroup]]()

    def asks(self, graph: Graph) -> Iterator[tuple[Piece, list[tuple[Stage, Mapping[str, Any]]]]]:
        """Yield the pieces of a graph with the stages, and their inputs, that each asks for and none before it."""
        known = set[Path]()
        for piece in graph:
            at = len(self.run.asked)
            piece.build()
            new = {stage.folder: (stage, inputs) for stage, inputs in self.run.asked[at:] if stage.folder not in known}
            known |= new.keys()
            yield piece, list(new.values())

    @staticmethod
    def check_model(name: str) -> None:
        """Take a model without weights: they need not be there yet."""

    def train(self, name: str, method: Method, **how: Any) -> Stage:
        """Note what would be trained."""
        stage = super().train(name, method, **how)
        if stage.key not in self.trained:
            rows = how.get("groups") or self.learnt_from(name, method.needs)
            self.trained[stage.key] = Trained(stage, method, how, rows)
        return stage

    def reference_stage(self, groups: Sequence[EncodedGroup], sft: Stage | None, **how: Any) -> Stage:
        """Note what would be scored."""
        stage = super().reference_stage(groups, sft, **how)
        self.scored[stage.key] = groups
        return stage


class Unopened(Foundation):
    """What methods stand on, where given reward models with weights of their own stay closed."""

    def _models(self, sft: Stage | None, seed: int) -> Rewards:
        """Return what policies would maximise; of models with weights of their own, the names alone."""
        if all(one.on_base(self.experiment) for one in self.given):
            return super()._models(sft, seed)
        return Rewards(",".join(one.source for one in self.given))

    def say_what_is_closed(self) -> None:
        """Say so where there are such models."""
        closed = [one.source for one in self.given if not one.on_base(self.experiment)]
        if closed:
            logger.warning("the weights of %s are not among what is planned: they come on top", ", ".join(closed))


class UnjudgedArena(Arena):
    """Where methods would meet: several given judges, whose scale is found by opening them, stay closed."""

    def judging(self, replications: Sequence[Replication]) -> Judging:
        """Return who would judge."""
        if isinstance(self.judge, list) and len(self.judge) > 1:
            return Judging(JudgeSpec("given", ",".join(one.source for one in self.judge), (), _closed), by_gold, None)
        return super().judging(replications)


def _closed(roles: Roles) -> Judge:
    raise AssertionError("nothing is judged in outline")
