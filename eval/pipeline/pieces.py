"""The parts of a comparison that can be made side by side, each by the calls that the comparison makes in turn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from eval.pipeline.contestants import judge_rewards, started, train_entries, trained_stage
from eval.pipeline.entries import spent
from eval.pipeline.learning_curve import learning_pieces
from eval.pipeline.standing import charged_below
from eval.pipeline.yardsticks import baseline, oracle_line
from preflab.experiment.foundation import REWARD_MODEL
from preflab.experiment.side_by_side import Piece

if TYPE_CHECKING:
    from eval.pipeline.arena import Arena
    from eval.pipeline.entries import Entry
    from preflab.training.budget import Budget

JUDGE = "judge"


def pieces(arena: Arena) -> list[Piece]:
    """Return the parts of a comparison: of each seed what its methods stand on, who judges, every method, yardsticks.

    Methods that sample come first, as they take longest. Where the first method sets the budget, all wait for it.
    """
    start, model = (_drawn(arena, stage) for stage in (arena.foundation.start_label, REWARD_MODEL))
    starts = {seed: f"start {start[seed]}" for seed in arena.seeds}
    stands = {seed: f"reward model {model[seed]} on start {start[seed]}" for seed in arena.seeds}
    first, everything = arena.seeds[0], tuple(dict.fromkeys(stands.values()))
    found = [Piece(starts[seed], partial(arena.start, seed)) for seed in _once(starts)]
    found += [Piece(stands[seed], partial(arena.replications, [seed]), (starts[seed],)) for seed in _once(stands)]
    found.append(Piece(JUDGE, partial(arena.judging, ()), (starts[first],)))
    sets = _sets_budget(arena)
    needs = everything if arena.config.charge == "all" else ()
    if sets is not None:
        name = _named(sets, first)
        found.append(Piece(name, partial(_train, arena, sets, first), (*needs, stands[first], JUDGE)))
        needs = (*needs, name)
    for entry in sorted(arena.entries, key=lambda entry: not entry.method.needs.rollout):
        for seed in arena.seeds:
            if (entry, seed) != (sets, first):
                build = partial(_train, arena, entry, seed)
                found.append(Piece(_named(entry, seed), build, (*needs, stands[seed], JUDGE)))
    found += learning_pieces(arena, {seed: (stands[seed], JUDGE) for seed in arena.seeds})
    for seed in _once(starts):
        found.append(Piece(f"answers of {starts[seed]}", partial(_begin, arena, seed), (stands[seed], JUDGE)))
    for seed in _once(stands):
        found.append(Piece(f"evaluation of {stands[seed]}", partial(_score, arena, seed), (stands[seed], JUDGE)))
    found.append(Piece("oracle line", partial(_line, arena), (stands[first], JUDGE)))
    return found


def _drawn(arena: Arena, stage: str) -> dict[int, int]:
    """Return the seed of the stage that each seed's methods stand on."""
    return {seed: seed if arena.redrawn.get(stage) else 0 for seed in arena.seeds}


def _once(names: Mapping[int, str]) -> list[int]:
    """Return the first seed of each name."""
    first: dict[str, int] = {}
    for seed, name in names.items():
        first.setdefault(name, seed)
    return list(first.values())


def _named(entry: Entry, seed: int) -> str:
    return f"{entry.method.label} {dict(entry.varied) or ''} seed {seed}"


def _line(arena: Arena) -> None:
    """Sample the oracle line of the first seed's start."""
    (ground,) = arena.grounds(arena.seeds[:1])
    oracle_line(ground._replace(seed=0))


def _score(arena: Arena, seed: int) -> None:
    """Evaluate the reward models of a seed."""
    (ground,) = arena.grounds([seed])
    judge_rewards(arena.scored([ground]), arena.brought.rewards)


def _begin(arena: Arena, seed: int) -> None:
    """Evaluate the start of a seed, and the draws that win rates are against."""
    for ground in arena.starts(arena.grounds([seed])):
        baseline(ground)
        started(arena.foundation, [ground])


def _train(arena: Arena, entry: Entry, seed: int) -> None:
    """Train and evaluate a method at a setting with one seed."""
    below = arena.below() if arena.config.charge == "all" else ()
    train_entries(arena.session, arena.grounds([seed]), [entry], below, _budget(arena, entry))


def _sets_budget(arena: Arena) -> Entry | None:
    """Return what sets the budget of the others; None where there is none, or it is given."""
    return arena.entries[0] if arena.config.match != "none" and arena.config.given_budget is None else None


def _budget(arena: Arena, entry: Entry) -> Budget | None:
    """Return the budget that a method is under; None for the one that sets it."""
    sets = _sets_budget(arena)
    if sets is None or entry is sets:
        return arena.config.given_budget
    below = arena.below() if arena.config.charge == "all" else ()
    stage = trained_stage(arena.session, arena.grounds(arena.seeds[:1])[0], sets)
    return spent(arena.config, stage, charged_below(below, sets.method, arena.config))
