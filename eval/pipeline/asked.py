"""What a comparison is to be of: read and checked as far as files alone say, for whoever makes it or plans it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from preflab.errors import UserError
from preflab.eval.pipeline.arena import Arena
from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.entries import CompareConfig, Entry, check_entries, check_sampled
from preflab.eval.pipeline.judging import compares, open_judge
from preflab.eval.pipeline.learning_curve import LearningCurveConfig, check_learning, check_samples
from preflab.eval.pipeline.searching import TuneConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.tuning import check_tuning
from preflab.eval.pipeline.workers import check_here, check_workers

if TYPE_CHECKING:
    from preflab.eval.pipeline.judging import Chosen
    from preflab.experiment.experiment import Experiment
    from preflab.method.configured import Method


class Asked(NamedTuple):
    """What a comparison is to be of.

    Attributes:
        session: the settings, with steps capped.
        entries: what is compared.
        judge: who was asked for; None: the world's own.
        brought: what is not trained here.
    """

    session: Session
    entries: Sequence[Entry]
    judge: Chosen | None
    brought: Brought

    @classmethod
    def by(cls, session: Session) -> Asked:
        """Read and check a session's settings.

        Raises:
            UserError: for whatever could not finish.
        """
        config = session.config(CompareConfig)
        check_workers(session, timed=config.match == "time")
        session = session.capped(config.max_steps)
        found = cls(session, check_entries(session), open_judge(session.configs), Brought.by(session))
        found.brought.check_reward(session, maximised=True)
        check_primary(config, found.judge)
        check_sampled(config, session.run.seeds)
        check_learning(session.config(LearningCurveConfig), config)
        check_tuning(session.config(TuneConfig), session.run.seeds, config.sweep)
        check_here(session, (method.name for method in found.methods), timed=config.match == "time")
        return found

    @property
    def methods(self) -> list[Method]:
        """All that is trained: what others stand on, and what is compared."""
        return [*self.session.stage_methods(), *(entry.method for entry in self.entries)]

    @property
    def tested(self) -> int:
        """How many policies are tested against one another, the start among them; 0 where nobody judges."""
        trained = sum(not entry.varied and entry.method.needs.trains[0] == "policy" for entry in self.entries)
        world = self.session.world
        return 1 + trained if self.judge or world.judges or world.gold_share else 0

    @property
    def tuned(self) -> bool:
        """Whether settings are chosen on training rows set aside."""
        return self.session.config(TuneConfig).tune > 0

    def arena(self, experiment: Experiment) -> Arena:
        """Return where methods meet in an open world.

        Raises:
            UserError: for samples of the preferences that this world does not have.
        """
        names = [entry.method.name for entry in self.entries]
        foundation = self.brought.foundation(self.session, experiment, names)
        arena = Arena(self.session, foundation, self.brought, self.judge, self.entries)
        check_samples(arena)
        return arena


def check_primary(config: CompareConfig, judge: Chosen | None) -> None:
    """Refuse a primary endpoint that this judge gives no figures of.

    Raises:
        UserError: naming both.
    """
    if compares(judge) and config.primary in ("gold", "equal-kl"):
        raise UserError(
            f"--primary {config.primary} is of gold rewards, and this judge compares answers and scores none; take "
            "win-rate, or a judge that scores"
        )
