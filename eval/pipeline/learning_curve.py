"""``--train-fraction``: methods on part of the preferences, for how many of them are needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from preflab.errors import UserError
from preflab.eval.pipeline.contestants import contest
from preflab.eval.pipeline.yardsticks import subject_of
from preflab.eval.subjects import evaluation_stage
from preflab.execution.graph import Piece
from preflab.experiment.foundation import REWARD_MODEL
from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.contestant import Contestant
    from preflab.eval.comparison.learning import Learnt
    from preflab.eval.pipeline.arena import Arena
    from preflab.eval.pipeline.entries import CompareConfig, Entry
    from preflab.eval.subjects import Ground


logger = logging.getLogger(__name__)

FEW_GROUPS = 20


@dataclass(frozen=True)
class LearningCurveConfig:
    """On what parts of the preferences methods are trained besides all of them."""

    train_fraction: tuple[float, ...] = option(
        (1.0,),
        "shares of the preferences, as 0.1,0.3, that methods, and the reward models and starts trained for "
        "them, learn from too: how many are needed",
        minimum=1e-4,
        maximum=1.0,
    )

    @property
    def parts(self) -> tuple[float, ...]:
        """Those beside the whole, in order, each once."""
        return tuple(sorted({share for share in self.train_fraction if share < 1.0}))


def check_learning(config: LearningCurveConfig, comparison: CompareConfig) -> None:
    """Refuse budgets beside it, which a method on fewer preferences would spend by seeing them more often.

    Raises:
        UserError: naming both options.
    """
    if config.parts and comparison.match != "none":
        raise UserError(
            f"--train-fraction trains for as many epochs as all preferences get, and --match {comparison.match} until "
            "a budget is spent; keep one of the two"
        )


def check_samples(arena: Arena) -> None:
    """Refuse parts of the preferences, or samples of them, that could not be had, and say what is not what it seems.

    Raises:
        UserError: before anything is trained.
    """
    from preflab.worlds.resampling import PREFERENCES, check_apart, rows_of_groups

    parts, world = arena.session.config(LearningCurveConfig).parts, arena.experiment.world
    if not parts and not arena.sampled:
        return
    check_apart(world)
    groups = {group for name in PREFERENCES if getattr(world, name) for group in rows_of_groups(getattr(world, name))}
    if len(groups) < FEW_GROUPS:
        logger.warning("the preferences are of %d groups: parts and samples of so few are hardly others", len(groups))
    if parts:
        check_learners(arena)


def check_learners(arena: Arena) -> None:
    """Refuse parts of the preferences that no method learns from; say which do not, and which count steps.

    Raises:
        UserError: if none does.
    """
    found = [entry.method.label for entry in learners(arena)]
    others = [entry.method.label for entry in arena.entries if not entry.varied and entry.method.label not in found]
    if not found:
        raise UserError(
            f"--train-fraction: {', '.join(others)} learns from no preferences, and maximises no reward model that is "
            "trained here"
        )
    if others:
        logger.warning("--train-fraction: %s learns from no preferences, and has no curve", ", ".join(others))
    methods = [entry.method for entry in learners(arena)]
    methods += [arena.foundation.reward] if any(map(maximises, learners(arena))) else []
    if counted := [method.label for method in methods if method.train.max_steps > 0]:
        logger.warning(
            "--train-fraction: %s trains for max_steps, however few the preferences, which it then sees more often",
            ", ".join(counted),
        )


def learners(arena: Arena) -> list[Entry]:
    """Return the methods, as configured, that learn from preferences themselves or by a reward model trained here."""
    from preflab.experiment.splits import OFFLINE

    trained = REWARD_MODEL in arena.foundation.redrawn(())
    return [
        entry
        for entry in arena.entries
        if not entry.varied
        and (entry.method.needs.responses in OFFLINE.keys() - {"demonstration"} or (trained and maximises(entry)))
    ]


def learning_curves(arena: Arena, grounds: Sequence[Ground], contestants: Sequence[Contestant]) -> list[Learnt]:
    """Train and evaluate methods on parts of the preferences, each seed on parts of its own.

    Args:
        arena: what is compared.
        grounds: what the methods of each seed share.
        contestants: the methods on all preferences; each is the end of its curve.
    """
    from preflab.eval.comparison.learning import Learnt

    config, entries = arena.session.config(LearningCurveConfig), learners(arena)
    if not config.parts or not entries:
        return []
    whole = {one.name: one for one in contestants if not one.varied}
    found = [Learnt(1.0, _preferences(arena, entry, grounds), whole[entry.method.label]) for entry in entries]
    for fraction in config.parts:
        fewer = [on_fewer(arena, ground, fraction) for ground in grounds]
        for entry in entries:
            stages = [train_on(ground, entry, fraction) for ground in fewer]
            found.append(Learnt(fraction, _preferences(arena, entry, fewer), contest(fewer, entry, stages)))
    return found


def learning_pieces(arena: Arena) -> list[Piece]:
    """Return the parts of it: what each seed's methods stand on, these, and their evaluations."""
    found, methods = [], learners(arena)
    for fraction in arena.session.config(LearningCurveConfig).parts if methods else ():
        for seed in arena.seeds:
            stands = f"{fraction:g} of the preferences, seed {seed}"
            models = arena.footing.rewards(seed) if any(map(maximises, methods)) else []
            stages = tuple(stage for piece in models for stage in piece.stages)
            found.append(Piece(stands, partial(_fewer, arena, seed, fraction), arena.judged_on(seed), stages))
            for entry in methods:
                name = part_name(entry, seed, fraction)
                train, judge = (partial(work, arena, entry, seed, fraction) for work in (_train, _evaluate))
                found.append(Piece(name, train, (stands,), (name,)))
                found.append(Piece(f"eval-{name}", judge, (name,), (f"eval-{name}",)))
    return found


def on_fewer(arena: Arena, ground: Ground, fraction: float) -> Ground:
    """Return what the methods of a seed share on part of its preferences.

    Reward models are trained on the part; so is the start, where its demonstrations are chosen responses.
    """
    foundation = arena.foundation._replace(experiment=ground.experiment.with_fewer(fraction, ground.seed))
    fewer = ground._replace(experiment=foundation.experiment)
    worlds = [one.experiment.world.fingerprints["demonstrations"] for one in (ground, fewer)]
    if foundation.trains_start and worlds[0] != worlds[1]:
        fewer = fewer._replace(sft=foundation.sft(ground.seed if arena.redrawn.get(foundation.start_label) else 0))
    if any(map(maximises, learners(arena))):
        number = ground.seed if arena.redrawn.get(REWARD_MODEL) else 0
        fewer = fewer._replace(reward=foundation.rewards(fewer.sft, number))
    return fewer


def maximises(entry: Entry) -> bool:
    """Whether a method maximises a reward that it does not train."""
    needs = entry.method.needs
    return needs.uses("reward") and "reward" not in needs.trains


def part_name(entry: Entry, seed: int, fraction: float) -> str:
    """Return what the stage of a method on a part of the preferences is called."""
    return f"{entry.method.label}-seed{seed}-of-{fraction:g}"


def train_on(ground: Ground, entry: Entry, fraction: float) -> Stage:
    """Train a method on the part of the preferences that a ground stands on."""
    name = part_name(entry, ground.seed, fraction)
    return ground.experiment.train(name, entry.method, seed=ground.seed, sft=ground.sft, reward=ground.reward)


def _preferences(arena: Arena, entry: Entry, grounds: Sequence[Ground]) -> float:
    """Return how many rows a method, or the reward model that it maximises, learns from, mean over seeds."""
    method = arena.foundation.reward if maximises(entry) else entry.method
    rows = [ground.experiment.learnt_from(method.label, method.needs) or () for ground in grounds]
    return sum(map(len, rows)) / len(rows)


def _fewer(arena: Arena, seed: int, fraction: float) -> Ground:
    """Build what the methods of a seed share on part of its preferences."""
    (ground,) = arena.grounds([seed])
    return on_fewer(arena, ground, fraction)


def _train(arena: Arena, entry: Entry, seed: int, fraction: float) -> None:
    train_on(_fewer(arena, seed, fraction), entry, fraction)


def _evaluate(arena: Arena, entry: Entry, seed: int, fraction: float) -> None:
    fewer = _fewer(arena, seed, fraction)
    stage = train_on(fewer, entry, fraction)
    evaluation_stage(stage.name, subject_of(entry.method, stage), fewer)
