"""Methods compared: each trained at each setting with each seed, evaluated on the same prompts and pairs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from preflab import ranks
from preflab.eval.pipeline.again import comparison_again, tuning_again
from preflab.eval.pipeline.arena import Arena
from preflab.eval.pipeline.asked import Asked
from preflab.eval.pipeline.contestants import judge_rewards, started, train_entries
from preflab.eval.pipeline.enough import fewest_rows, say_what_is_seen
from preflab.eval.pipeline.entries import CompareConfig, check_labels
from preflab.eval.pipeline.following import CourseConfig
from preflab.eval.pipeline.judging import JUDGING, JudgeConfig, check_held, compares, open_people
from preflab.eval.pipeline.learning_curve import LearningCurveConfig, learning_curves
from preflab.eval.pipeline.pieces import comparison_graph
from preflab.eval.pipeline.results import Result, about, looks_so_far, samples_of, write_manifest
from preflab.eval.pipeline.searching import TuneConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.tuning import Tuning, searches_of, tuned, tuning_graph
from preflab.eval.pipeline.way_back import WayBackConfig
from preflab.eval.pipeline.workers import WORKERS, at_a_time, crew_of
from preflab.eval.pipeline.yardsticks import baseline, labels_kept, oracle_line
from preflab.execution.executing import execute

if TYPE_CHECKING:
    from preflab.eval.pipeline.judging import ByAnswers

COMPARE: dict[str, type] = {
    "comparison": CompareConfig,
    "course": CourseConfig,
    "way_back": WayBackConfig,
    "tuning": TuneConfig,
    "learning": LearningCurveConfig,
    **WORKERS,
    **JUDGING,
}
"""The configs of a session that `compare` takes."""


def compare(session: Session) -> Result:
    """Train and evaluate methods, all from the same start, on the same rows, judged on the same pairs and prompts.

    Args:
        session: made with the configs `COMPARE`.

    Returns:
        What ``comparison.json`` holds (docs/report.md), and the answers behind it.

    Raises:
        UserError: for whatever could not finish, before anything is trained.
    """
    asked = Asked.by(session)
    session, policies, people = asked.session, asked.tested, open_people(session.config(JudgeConfig))
    judged, doing = fewest_rows(policies, session.evaluation.eval_prompts), session.config(CompareConfig).algorithms
    with session.opened(asked.methods, judged=judged, doing=doing, tuned=asked.tuned) as experiment:
        say_what_is_seen(policies, min(len(experiment.eval_prompts), session.evaluation.eval_prompts))
        arena = asked.arena(experiment)
        check_held(people, policies if arena.is_judged else 0)
        return compared(arena, people)


def compared(arena: Arena, people: ByAnswers | None = None) -> Result:
    """Do what `compare` says, with everything checked and open.

    Args:
        arena: where methods meet.
        people: who judged some of the answers too.
    """
    from preflab.eval.comparison.record import summarise_comparison
    from preflab.eval.records.comparison import Comparison

    run, session, config, foundation = arena.experiment.run, arena.session, arena.config, arena.foundation
    crew = partial(crew_of, session, run, at_a_time(session, timed=config.match == "time"))
    check_labels([entry.method.label for entry in arena.entries if not entry.varied], foundation.start_label)
    if config.redraw:
        foundation.say_what_is_shared(config.redraw)
    looks = looks_so_far(Path(session.run.output))
    write_manifest(session, arena.experiment, primary=arena.primary, looks=looks)
    # 0. The setting of every method, if it is to be found first; then all that there is to build.
    tuning = Tuning({}, {}, ())
    if session.config(TuneConfig).tune:
        searches = searches_of(arena)
        execute(run, tuning_graph(arena, searches), crew(partial(tuning_again, session)))
        tuning = tuned(arena, searches)
        arena = arena.at(tuning.best)
    entries, looks = arena.entries, list(dict.fromkeys([*looks, arena.look()]))
    write_manifest(session, arena.experiment, primary=arena.primary, looks=looks)
    execute(run, comparison_graph(arena), crew(partial(comparison_again, session, tuning.best)))
    ranks.dismiss()
    # 1. What every method shares: the policy they start from, the reward model, the judge.
    judged, grounds = arena.judging(arena.replications(arena.seeds)), arena.grounds(arena.seeds)
    starts, stands_on, ground = arena.starts(grounds), arena.below(), grounds[0]._replace(seed=0)
    # 2. That policy, against other draws of itself: it should win half the time.
    draws = [baseline(one) for one in starts]
    first = started(foundation, starts)
    # 3. Each method, each setting, each seed.
    anew = (*(stage.name for stage in stands_on if stage.redrawn), *arena.sampled)
    contestants = [first, *train_entries(session, grounds, entries, stands_on, replicated=bool(anew))]
    # 4. What all that says.
    summary = summarise_comparison(
        contestants,
        baseline=draws,
        decide=judged.decide,
        oracle=oracle_line(ground),
        matched=config.match,
        below=stands_on,
        redrawn=anew,
        primary=arena.primary,
        looks=len(looks),
        tuning=tuning.tuned,
        trials=tuning.costs,
        judge_is_kin=arena.judge_is_kin,
        learnt=learning_curves(arena, grounds, contestants),
        people=people,
        length_unit=session.evaluation.length_unit,
    )
    methods = {entry.method.label: entry.method.identity() for entry in entries if not entry.varied}
    comparison = Comparison(
        **vars(summary),
        baseline=foundation.start_label,
        judge=judged.described(None if compares(arena.judge) else labels_kept(ground)),
        reward_model=judge_rewards(arena.scored(grounds), arena.brought.rewards),
        seeds=tuple(arena.seeds),
        **about(session, arena.experiment, methods=methods),
    )
    return Result(comparison, samples_of(contestants))
