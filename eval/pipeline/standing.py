"""What methods stand on: the stages trained here, what they cost, and what was maximised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.entries import CompareConfig
from preflab.eval.pipeline.judging import local
from preflab.eval.pipeline.session import Session
from preflab.experiment.foundation import REWARD_MODEL
from preflab.rewards.specification import ENDPOINT
from preflab.training.budget import spent_by

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.budgets import Below
    from preflab.experiment.foundation import Foundation, Replication
    from preflab.experiment.rewards import Rewards
    from preflab.method.configured import Method


def stood_on(
    foundation: Foundation,
    replications: Sequence[Replication],
    redrawn: Mapping[str, bool],
    methods: Sequence[Method],
) -> list[Below]:
    """Return the stages trained here that methods stand on, with what they cost."""
    from preflab.eval.comparison.budgets import Below

    policies = [method for method in methods if method.needs.responses != "demonstration"]
    learning = [m for m in policies if m.needs.uses("reward") and "reward" not in m.needs.trains]
    stages: dict[str, tuple[list[Sequence[Stage]], list[Method]]] = {
        foundation.start_label: ([[one.sft] if one.sft else [] for one in replications], policies),
        REWARD_MODEL: ([trained_rewards(one.rewards) for one in replications], learning),
    }
    found = []
    for name, anew in redrawn.items():
        parts, users = stages[name]
        parts = parts if anew else parts[:1]
        records = [stage.record for part in parts for stage in part]
        if records and users:
            found.append(Below(name, records, [m.label for m in users], anew and len(parts) > 1, len(parts)))
    return found


def trained_rewards(rewards: Rewards | None) -> Sequence[Stage]:
    """Return the stages of the reward models trained here among what is maximised."""
    trained = rewards.trained if rewards else None
    return trained.stages if trained else ()


def charged_below(below: Sequence[Below], method: Method, config: CompareConfig) -> float:
    """Return how much of what is matched the stages took that a method stands on; 0 where they are not charged.

    Raises:
        UserError: if one of them did not count it.
    """
    if config.match == "none" or config.charge == "own":
        return 0.0
    used = [(stage.name, record) for stage in below if method.label in stage.users for record in stage.records]
    return sum(spent_by(record, config.match, name).amount for name, record in used)


def maximised_by(
    session: Session, rewards: Sequence[Rewards | None], methods: Sequence[Method], brought: Brought
) -> list[str | Path]:
    """Return what those methods were given that maximise a reward; nothing where none does."""
    from preflab.eval.judges import PLANTED

    if not any(method.needs.trains[0] == "policy" and method.needs.uses("reward") for method in methods):
        return []
    gold, world = session.rewards.maximised(session.world) == "gold", session.world
    asked = [world.endpoint().answers for part in world.reward_parts if part.source == ENDPOINT]
    own: list[str | Path] = [PLANTED, *asked] if gold else []
    given = [local(subject.source) for subject in brought.rewards]
    trained = [stage.folder / "reward" for one in rewards for stage in trained_rewards(one)]
    return [*own, *(given or trained)]
