"""What a person brings along in place of what is trained: where policies start, reward models."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflab.errors import UserError
from preflab.eval.pipeline.judging import open_rewards
from preflab.eval.subjects import PolicySubject, RewardSubject, open_subject, open_subjects
from preflab.experiment.foundation import AUTO, NONE, TRAIN, Foundation
from preflab.rewards.specification import MODEL

if TYPE_CHECKING:
    from preflab.eval.pipeline.session import Session
    from preflab.experiment.experiment import Experiment


logger = logging.getLogger(__name__)


class Brought(NamedTuple):
    """What a person brings along; no weights are opened yet.

    Attributes:
        begin: ``auto``, ``none``, ``train`` or the folder of an adapter, as `Foundation` has it.
        rewards: reward models.
    """

    begin: str
    rewards: tuple[RewardSubject, ...]

    @classmethod
    def by(cls, session: Session) -> Brought:
        """Return what a session names.

        Raises:
            UserError: if something of it is not there, or something else.
        """
        return cls(named_start(session.run.sft), open_rewards("--reward-model", session.rewards.reward_model))

    def check_reward(self, session: Session, *, maximised: bool, judged: bool = True) -> None:
        """Refuse a reward of one's own, or a reward model, that nobody would read.

        Args:
            session: names them.
            maximised: whether anything is trained or scored by what policies maximise.
            judged: whether the world's own judge is asked.

        Raises:
            UserError: naming the option.
        """
        world, parts = session.world, session.world.reward_parts
        if world.reward and world.kind == "real" and not maximised and not (judged and world.reward_is_code):
            raise UserError("nobody reads --reward: nothing here maximises it, and only functions judge; leave it out")
        gold = session.rewards.maximised(world) == "gold"
        if maximised and gold and self.rewards and not any(part.source == MODEL for part in parts):
            ways = ["make model=WEIGHT a part of --reward"] if parts else []
            ways += ["add --policy-reward model"] if world.reward_is_code or not parts else []
            todo = ", or ".join([*ways, "leave it out"])
            raise UserError(f"nobody reads --reward-model: policies maximise another reward; {todo}")

    def foundation(self, session: Session, experiment: Experiment, methods: Collection[str]) -> Foundation:
        """Return what methods stand on, with ``auto`` decided.

        Args:
            session: the settings.
            experiment: the open world and run.
            methods: names of those that stand on it.
        """
        start, reward = session.stage_methods()
        given = tuple(subject.given for subject in self.rewards)
        found = Foundation(experiment, start, reward, session.rewards, self.begin, given).resolved()
        if not found.trains_start and start.name not in methods and session.given(start.name):
            logger.warning("nothing reads the settings of %s: no start is trained (--sft train does)", start.label)
        return found


def named_start(spec: str) -> str:
    """Return the folder of the adapter that ``--sft`` names, and its words as they are.

    Raises:
        UserError: if it names something else, or a run with several policies.
    """
    if spec in (AUTO, NONE, TRAIN):
        return spec
    try:
        found = _policies(spec)
    except UserError as error:
        raise UserError(f"--sft takes none, train or an adapter of --model: {error}") from None
    if len(found) > 1:
        raise UserError(f"--sft: {spec} is a run with several policies; name one: {', '.join(sorted(found))}")
    return next(iter(found))


def _policies(spec: str) -> list[str]:
    """Return the folders of the policy adapters that something names: one, or those of a whole run."""
    if (Path(spec).expanduser() / "stages").is_dir():
        subjects = open_subjects("run", spec).values()
        found = [s.source for s in subjects if isinstance(s, PolicySubject) and s.source]
        if not found:
            raise UserError(f"{spec} is a run in which no policy is trained yet")
        return found
    subject = open_subject(spec)
    if not isinstance(subject, PolicySubject) or not subject.adapter or subject.best_of > 1 or subject.source is None:
        model = isinstance(subject, PolicySubject) and not subject.adapter
        todo = f"; give it as --model, with --sft {NONE}" if model else ""
        raise UserError(f"{spec} is a {subject.kind}{todo}")
    return [subject.source]
