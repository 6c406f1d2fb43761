"""``--train-fraction``: methods on part of the preferences, for how many of them are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eval.pipeline.contestants import contest
from preflab.errors import UserError
from preflab.experiment.foundation import REWARD_MODEL
from preflab.experiment.side_by_side import Piece
from preflab.settings.fields import option

if TYPE_CHECKING:
    from eval.comparison.contestant import Contestant
    from eval.comparison.learning import Learnt
    from eval.pipeline.arena import Arena
    from eval.pipeline.entries import CompareConfig, Entry
    from eval.subjects import Ground
    from preflab.disk.stages import Stage


@dataclass(frozen=True)
class LearningCurveConfig:
    """On what parts of the preferences methods are trained besides all of them."""

    train_fraction: tuple[float, ...] = option(
        (1.0,),
        "shares of the preferences, as 0.1,0.3, that every method and the reward model trained for it learn from too, "
        "for as many epochs: how many are needed",
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
    from eval.comparison.learning import Learnt

    config, entries = arena.session.config(LearningCurveConfig), learners(arena)
    if not config.parts or not entries:
        return []
    names = {entry.method.label for entry in entries}
    whole = _pairs(grounds)
    found = [Learnt(1.0, whole, one) for one in contestants if one.name in names and not one.varied]
    for fraction in config.parts:
        fewer = [on_fewer(arena, ground, fraction) for ground in grounds]
        for entry in entries:
            stages = [train_on(ground, entry, fraction) for ground in fewer]
            found.append(Learnt(fraction, _pairs(fewer), contest(fewer, entry, stages)))
    return found


def learning_pieces(arena: Arena, needs: dict[int, tuple[str, ...]]) -> list[Piece]:
    """Return the parts of it that can be made side by side, after what each seed's methods stand on."""
    found = []
    for fraction in arena.session.config(LearningCurveConfig).parts:
        for seed in arena.seeds:
            ground = f"{fraction:g} of the preferences, seed {seed}"
            found.append(Piece(ground, partial(_stand, arena, seed, fraction), needs[seed]))
            for entry in learners(arena):
                build = partial(_learn, arena, entry, seed, fraction)
                found.append(Piece(f"{entry.method.label} on {ground}", build, (ground,)))
    return found


def on_fewer(arena: Arena, ground: Ground, fraction: float) -> Ground:
    """Return what the methods of a seed share on part of its preferences: the same start, other reward models."""
    experiment = ground.experiment.with_fewer(fraction, ground.seed)
    if not any(map(maximises, learners(arena))):
        return ground._replace(experiment=experiment)
    number = ground.seed if arena.redrawn.get(REWARD_MODEL) else 0
    rewards = arena.foundation._replace(experiment=experiment).rewards(ground.sft, number)
    return ground._replace(experiment=experiment, reward=rewards)


def maximises(entry: Entry) -> bool:
    """Whether a method maximises a reward that it does not train."""
    needs = entry.method.needs
    return needs.uses("reward") and "reward" not in needs.trains


def train_on(ground: Ground, entry: Entry, fraction: float) -> Stage:
    """Train a method on the part of the preferences that a ground stands on."""
    name = f"{entry.method.label}-seed{ground.seed}-of-{fraction:g}"
    return ground.experiment.train(name, entry.method, seed=ground.seed, sft=ground.sft, reward=ground.reward)


def _pairs(grounds: Sequence[Ground]) -> float:
    """Return how many pairs methods learn from, mean over seeds."""
    return sum(len(ground.experiment.pairs) for ground in grounds) / len(grounds)


def _stand(arena: Arena, seed: int, fraction: float) -> None:
    """Build what the methods of a seed share on part of its preferences."""
    (ground,) = arena.grounds([seed])
    on_fewer(arena, ground, fraction)


def _learn(arena: Arena, entry: Entry, seed: int, fraction: float) -> None:
    """Train and evaluate a method with a seed on part of its preferences."""
    (ground,) = arena.grounds([seed])
    fewer = on_fewer(arena, ground, fraction)
    contest([fewer], entry, [train_on(fewer, entry, fraction)])
