"""A comparison as a graph: what every seed stands on, every method at every setting, what evaluates it, yardsticks.

Each piece makes the very calls that the comparison reads its stages by, so that these find them. Whoever shows, plans
or spreads a comparison takes this graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from preflab.eval.pipeline.contestants import followed, rewards_judged, trained_stage
from preflab.eval.pipeline.entries import left, spent, under
from preflab.eval.pipeline.following import CourseConfig, on_the_way
from preflab.eval.pipeline.footing import names
from preflab.eval.pipeline.judging import compares
from preflab.eval.pipeline.learning_curve import learning_pieces, maximises
from preflab.eval.pipeline.standing import charged_below
from preflab.eval.pipeline.way_back import WayBackConfig, on_the_way_back, scales, shares_of
from preflab.eval.pipeline.yardsticks import BASELINE, JUDGE, LINE, baseline_draws, line_stage, subject_of
from preflab.eval.subjects import START, Ground, ScoringJudge, evaluation_stage
from preflab.execution.graph import Graph, Piece
from preflab.experiment.foundation import REWARD_MODEL
from preflab.experiment.splits import keeps_reference, reads_reference

if TYPE_CHECKING:
    from preflab.eval.pipeline.arena import Arena
    from preflab.eval.pipeline.entries import Entry


def comparison_graph(arena: Arena) -> Graph:
    """Return all that a comparison builds.

    Methods that sample come before others, as they take longest, and whatever is trained before what evaluates it.
    Where the first method sets the budget, all wait for it.
    """
    entries = sorted(arena.entries, key=lambda entry: not entry.method.needs.rollout)
    sets, first = sets_budget(arena), arena.seeds[0]
    every = [(entry, seed) for entry in entries for seed in arena.seeds if (entry, seed) != (sets, first)]
    every = [*([(sets, first)] if sets else []), *every]
    found = [*arena.pieces_below(arena.seeds), *_references(arena, entries)]
    found += [_trained(arena, entry, seed) for entry, seed in every]
    found += learning_pieces(arena)
    found += [piece for entry, seed in every for piece in _evaluated(arena, entry, seed)]
    return Graph([*found, *_yardsticks(arena)])


def sets_budget(arena: Arena) -> Entry | None:
    """Return what sets the budget of the others; None where there is none, or it is given."""
    return arena.entries[0] if arena.config.match != "none" and arena.config.given_budget is None else None


# ---- methods -------------------------------------------------------------------------------------


def _references(arena: Arena, entries: Sequence[Entry]) -> Iterator[Piece]:
    """Yield what computes the reference's log-probabilities, once for methods that learn from the same rows."""
    named: set[str] = set()
    for entry, seed in itertools.product(entries, arena.seeds):
        for name in set(_reference_read(arena, entry, seed)) - named:
            named.add(name)
            scores, below = partial(_score_reference, arena, entry, seed), names(arena.footing.starts(seed))
            yield Piece(name, scores, below, ("reference",))


def _reference_read(arena: Arena, entry: Entry, seed: int) -> tuple[str, ...]:
    """Return the piece that scores all the rows of a method for it; none where it scores what it reads itself."""
    method = entry.method
    if not reads_reference(method):
        return ()
    if arena.config.match == "none" or entry is sets_budget(arena):
        own = arena.foundation.of_seed(seed, arena.config.sources).experiment
        rows = own.learnt_from(method.label, method.needs) or ()
        if not keeps_reference(method, len(rows)):
            return ()
    return (_reference_name(arena, entry, seed),)


def _reference_name(arena: Arena, entry: Entry, seed: int) -> str:
    rows = f"{entry.method.needs.responses}s" + (f" of seed {seed}" if arena.sampled else "")
    half = " in bfloat16" if entry.method.train.bf16 else ""
    return f"reference {arena.footing.start_name(seed)}: {rows}{half}"


def _trained(arena: Arena, entry: Entry, seed: int) -> Piece:
    """Return what trains a method at a setting with a seed."""
    below = arena.standing(seed) if maximises(entry) else names(arena.footing.starts(seed))
    if arena.config.charge == "all":  # what all of it took is read
        below = names(arena.pieces_below(arena.seeds))
    sets, first = sets_budget(arena), arena.seeds[0]
    waits = (piece_name(sets, first),) if sets and (entry, seed) != (sets, first) else ()
    needs = tuple(dict.fromkeys((*below, *_reference_read(arena, entry, seed), *waits)))
    return Piece(piece_name(entry, seed), partial(_train, arena, entry, seed), needs, (_stage_name(entry, seed),))


def _evaluated(arena: Arena, entry: Entry, seed: int) -> Iterator[Piece]:
    """Yield what evaluates what a method's seed trained: at its end, on its way, on its way back to the start."""
    trained, name = piece_name(entry, seed), f"eval-{_stage_name(entry, seed)}"
    needs = tuple(dict.fromkeys((trained, *arena.judged_on(seed))))
    yield Piece(f"eval-{trained}", partial(_evaluate, arena, entry, seed), needs, (name,))
    if not arena.gives_gold:
        return
    for number in range(1, followed(arena.session, entry) + 1):
        follows = partial(_follow, arena, entry, seed, number)
        yield Piece(f"eval-{trained} snapshot {number}", follows, needs, (name,))
    for share in shares_of(arena.session, entry, arena.config.sweep is not None):
        goes = partial(_go_back, arena, entry, seed, share)
        yield Piece(f"eval-{trained}-at-{share:g}", goes, needs, (f"{name}-at-{share:g}",))


def piece_name(entry: Entry, seed: int) -> str:
    """Return what the piece is called that trains a method at a setting with a seed."""
    varied = "".join(f" {name}={value}" for name, value in entry.varied.items())
    return _stage_name(entry, seed) + varied


def _stage_name(entry: Entry, seed: int) -> str:
    return f"{entry.method.label}-seed{seed}"


def _standing(arena: Arena, entry: Entry, seed: int) -> Ground:
    """Return what a method stands on to be trained, and no more."""
    if maximises(entry):
        (one,) = arena.replications([seed])
        return Ground(one.experiment, arena.session.evaluation, one.sft, one.rewards, seed=seed)
    own = arena.foundation.of_seed(seed, arena.config.sources)
    return Ground(own.experiment, arena.session.evaluation, arena.start(seed), seed=seed)


def _score_reference(arena: Arena, entry: Entry, seed: int) -> None:
    ground, method = _standing(arena, entry, seed), entry.method
    rows = ground.experiment.learnt_from(method.label, method.needs)
    assert rows is not None
    train = method.train
    ground.experiment.reference_stage(rows, ground.sft, bf16=train.bf16, batch_size=train.micro_batch)


def _train(arena: Arena, entry: Entry, seed: int) -> None:
    trained_stage(arena.session, _standing(arena, entry, seed), _budgeted(arena, entry))


def _budgeted(arena: Arena, entry: Entry) -> Entry:
    """Return a method under its budget; in outline, what the first one spends is not known."""
    config, budget = arena.config, arena.config.given_budget
    below = arena.below() if config.charge == "all" and not arena.is_outline else ()
    sets = sets_budget(arena)
    if sets is not None and entry is not sets and not arena.is_outline:
        stage = trained_stage(arena.session, _standing(arena, sets, arena.seeds[0]), sets)
        budget = spent(config, stage, charged_below(below, sets.method, config))
    charged = charged_below(below, entry.method, config)
    return entry._replace(method=under(left(budget, entry.method, charged), entry.method))


def _evaluate(arena: Arena, entry: Entry, seed: int) -> None:
    (ground,) = arena.grounds([seed])
    stage = trained_stage(arena.session, ground, _budgeted(arena, entry))
    evaluation_stage(stage.name, subject_of(entry.method, stage), ground)


def _follow(arena: Arena, entry: Entry, seed: int, number: int) -> None:
    from preflab.training.snapshots import snapshots

    (ground,) = arena.grounds([seed])
    stage = trained_stage(arena.session, ground, _budgeted(arena, entry))
    for snapshot in snapshots(stage.folder):
        if snapshot.number == number:
            evaluation_stage(*on_the_way(ground, arena.session.config(CourseConfig), entry.method, stage, snapshot))


def _go_back(arena: Arena, entry: Entry, seed: int, share: float) -> None:
    (ground,) = arena.grounds([seed])
    stage = trained_stage(arena.session, ground, _budgeted(arena, entry))
    by = arena.session.config(WayBackConfig).interpolate_by
    if arena.is_outline or by != "weights" or scales(stage):
        evaluation_stage(*on_the_way_back(ground, stage, share, by))


# ---- yardsticks ----------------------------------------------------------------------------------


def _yardsticks(arena: Arena) -> Iterator[Piece]:
    """Yield what evaluates starts, reward models and the judge, and draws the oracle line."""
    label, evaluation, world = arena.foundation.start_label, arena.session.evaluation, arena.experiment.world
    anew = arena.redrawn
    for seed in arena.seeds if anew.get(label) else arena.seeds[:1]:
        needs, name = arena.judged_on(seed), arena.footing.start_name(seed)
        for draw in range(evaluation.baseline_draws):
            draws = partial(_draw, arena, seed, draw)
            yield Piece(f"eval-{BASELINE} {draw + 1} of {name}", draws, needs, (f"eval-{BASELINE}",))
        yield Piece(f"eval-{name}", partial(_begin, arena, seed), needs, (f"eval-{label}",))
    if arena.foundation.reads_models or len(arena.brought.rewards) == 1:
        for seed in arena.seeds if anew.get(REWARD_MODEL) else arena.seeds[:1]:
            needs = arena.judged_on(seed)
            yield Piece(f"eval-reward of seed {seed}", partial(_judge_rewards, arena, seed), needs, ("eval-reward",))
    needs = arena.judged_on(arena.seeds[0])
    if arena.gives_gold and evaluation.oracle_samples and not world.cut:
        yield Piece("oracle line", partial(_line, arena), needs, (LINE,))
    if arena.gives_gold and not compares(arena.judge) and world.gold is None:
        yield Piece(f"eval-{JUDGE}", partial(_judge_the_judge, arena), needs, (f"eval-{JUDGE}",))


def _draw(arena: Arena, seed: int, draw: int) -> None:
    for ground in arena.starts(arena.grounds([seed])):
        evaluation_stage(BASELINE, START, baseline_draws(ground)[draw])


def _begin(arena: Arena, seed: int) -> None:
    for ground in arena.starts(arena.grounds([seed])):
        evaluation_stage(arena.foundation.start_label, START, ground)


def _judge_rewards(arena: Arena, seed: int) -> None:
    (ground,) = arena.scored(arena.grounds([seed]))
    subject = rewards_judged(ground, arena.brought.rewards)
    if subject is not None:
        evaluation_stage("reward", subject, ground)


def _line(arena: Arena) -> None:
    (ground,) = arena.grounds(arena.seeds[:1])
    if ground.judge is not None:
        line_stage(ground._replace(seed=0), ground.judge)


def _judge_the_judge(arena: Arena) -> None:
    (ground,) = arena.grounds(arena.seeds[:1])
    if ground.judge is not None:
        evaluation_stage(JUDGE, ScoringJudge(ground.judge), ground._replace(seed=0))
