"""A run in outline: its stages found by the code that would build them, each costed and none built."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.pipeline.arena import Arena
from eval.pipeline.asked import Asked
from eval.pipeline.bringing import Brought
from eval.pipeline.entries import CompareConfig, under
from eval.pipeline.following import CourseConfig, taken
from eval.pipeline.learning_curve import LearningCurveConfig, learners, on_fewer, train_on
from eval.pipeline.planning import Plan, Planned
from eval.pipeline.searching import EVEN, TUNING_SEED, Place, Search, TuneConfig, search_space_of
from eval.pipeline.session import Session
from eval.pipeline.stage_costs import Cost, Costing
from eval.pipeline.training import check_read, stage_names
from eval.pipeline.way_back import WayBackConfig, shares_of
from eval.pipeline.yardsticks import own_judge
from eval.subjects import Ground
from preflab.data.encoding import EncodedGroup
from preflab.disk.stages import Stage, UnbuiltRun
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.experiment.foundation import Replication
from preflab.experiment.opening import check_engine, check_reward, quiet_libraries, with_rows_aside
from preflab.experiment.rewards import Rewards
from preflab.experiment.splits import reads_reference
from preflab.method.configured import Method
from preflab.planning.footprint import Sketch, free_memory, resident_memory, sketched
from preflab.planning.pace import Pace, measured
from preflab.training.fitting import Fitting

if TYPE_CHECKING:
    from preflab.experiment.foundation import Foundation

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
        trained: stages that would be trained, in order, with what they would be given.
    """

    def __init__(self, session: Session, methods: Sequence[Method], *, tuned: bool = False) -> None:
        run, world = UnbuiltRun(Path(session.run.output)), with_rows_aside(session.world, methods, tuned=tuned)
        super().__init__(run, world, session.lora, Path(session.run.cache))
        self.trained: list[Trained] = []

    @staticmethod
    def check_model(name: str) -> None:
        """Take a model without weights: they need not be there yet."""

    def train(self, name: str, method: Method, **how: Any) -> Stage:
        """Note what would be trained."""
        stage = super().train(name, method, **how)
        if all(stage.key != other.stage.key for other in self.trained):
            rows = how.get("groups") or self.learnt_from(name, method.needs)
            self.trained.append(Trained(stage, method, how, rows))
        return stage


def plan_comparison(session: Session) -> Plan:
    """Say what `compare` would do.

    Raises:
        UserError: for whatever could not finish.
    """
    asked = Asked.by(session)
    session, entries, judge, _ = asked
    outline = _outlined(session, asked.methods, tuned=asked.tuned)
    arena = asked.arena(outline)
    foundation = arena.foundation
    config, course, seeds = session.config(CompareConfig), session.config(CourseConfig), session.run.seeds
    replications = _replications(foundation, seeds, config.sources)
    sft = replications[0].sft
    if judge is None:
        own_judge(foundation, sft, session.evaluation)
    if config.match != "none" and config.budget is None:
        logger.warning(
            "match: what %s spends is known when it has run; steps are those of epochs", entries[0].method.label
        )
    tried = _trials(arena)
    for entry in entries:
        method, kept = under(config.given_budget, entry.method), 0 if entry.varied else taken(course, entry.method)
        for seed, experiment, start, rewards in replications:
            experiment.train(f"{method.label}-seed{seed}", method, seed=seed, sft=start, reward=rewards, snapshots=kept)
    starts = len({one.sft and one.sft.name for one in replications})
    trained = [entry for entry in entries if entry.method.needs.trains[0] == "policy"]
    back = sum(len(shares_of(session, entry, config.sweep is not None)) for entry in trained)
    if back and session.config(WayBackConfig).interpolate_by == "log-probabilities":
        logger.warning("interpolate_by: where log-probabilities are mixed two policies say each token; one is counted")
    policies = starts + (len(trained) + back) * len(seeds) + _on_parts(arena, replications) + tried
    return _planned(session, outline, sft, policies, session.evaluation.oracle_samples)


def _trials(arena: Arena) -> int:
    """Note what trials of settings would train, at the settings that hang on no result; return how many there are."""
    config = arena.session.config(TuneConfig)
    if not config.tune:
        return 0
    (one,) = _replications(arena.foundation, (TUNING_SEED,), arena.config.sources)
    searches = [Search(Place(arena, config), entry) for entry in arena.entries if search_space_of(entry)]
    for search in searches:
        for number in range(min(config.tune, EVEN)):
            method, name = search.tried(search.even(number)), search.stage_name(number)
            one.experiment.train(name, method, seed=TUNING_SEED, sft=one.sft, reward=one.rewards)
    if config.tune > EVEN:
        logger.warning(
            "tune: of %d trials of each method the first %d are planned; the others, whose settings hang on these, "
            "cost as much each",
            config.tune,
            EVEN,
        )
    return len(searches) * config.tune


def _on_parts(arena: Arena, replications: Sequence[Replication]) -> int:
    """Note what methods would train on parts of the preferences; return how many of it are evaluated."""
    methods, evaluation = learners(arena), arena.session.evaluation
    parts = arena.session.config(LearningCurveConfig).parts if methods else ()
    for seed, experiment, sft, rewards in replications:
        ground = Ground(experiment, evaluation, sft, rewards, seed=seed)
        for fraction in parts:
            fewer = on_fewer(arena, ground, fraction)
            for entry in methods:
                train_on(fewer, entry, fraction)
    return len(methods) * len(parts) * len(replications)


def plan_training(session: Session, name: str, *, evaluate: bool = True) -> Plan:
    """Say what `train`, or without evaluation `train_only`, would do with a method.

    Raises:
        UserError: for whatever could not finish.
    """
    session.layers.check((name,))
    method, brought = session.method(name), Brought.by(session)
    check_read(session, brought, method, judged=evaluate)
    outline = _outlined(session, [*session.stage_methods(), method])
    foundation = brought.foundation(session, outline, [method.name])
    sft = foundation.given_start() if method.needs.responses == "demonstration" else foundation.sft()
    uses = method.needs.uses("reward") and "reward" not in method.needs.trains
    rewards = _rewards(foundation, sft) if uses else None
    for stage, seed in zip(stage_names(session, foundation, method), session.run.seeds, strict=True):
        outline.train(stage, method, seed=seed, sft=sft, reward=rewards)
    policies = 1 + len(session.run.seeds) if evaluate and method.needs.trains[0] == "policy" else 0
    return _planned(session, outline, sft, policies, 0)


def _outlined(session: Session, methods: Sequence[Method], *, tuned: bool = False) -> Outline:
    """Open the world, and nothing else.

    Raises:
        UserError: for a world whose data are drawn from the model itself, which takes its weights.
    """
    if session.world.kind == "function":
        raise UserError("--plan: this world draws its preferences from the model, and has none before it runs")
    check_engine(session.lora, methods)
    check_reward(session.world)
    quiet_libraries()
    return Outline(session, methods, tuned=tuned)


def _replications(foundation: Foundation, seeds: Sequence[int], redraw: Sequence[str]) -> list[Replication]:
    """Return what the methods of each seed would stand on."""
    if all(one.on_base(foundation.experiment) for one in foundation.given):
        return foundation.replications(seeds, redraw)
    sft = foundation.sft()
    rewards = _rewards(foundation, sft)
    return [Replication(seed, foundation.of_seed(seed, redraw).experiment, sft, rewards) for seed in seeds]


def _rewards(foundation: Foundation, sft: Stage | None) -> Rewards | None:
    """Return what policies would maximise; of models with weights of their own, which stay closed, the name alone."""
    if all(one.on_base(foundation.experiment) for one in foundation.given):
        return foundation.rewards(sft)
    names = [one.source for one in foundation.given]
    logger.warning("the weights of %s are not among what is planned: they come on top", ", ".join(names))
    return Rewards(",".join(names))


def _planned(session: Session, outline: Outline, sft: Stage | None, policies: int, oracle: int) -> Plan:
    """Cost every stage, and the evaluation of so many policies.

    Raises:
        UserError: for a model whose layers do not run without weights.
    """
    sketch = sketched(outline.world.model, session.lora, trust_remote_code=session.world.trust_remote_code)
    try:
        return _costed(session, outline, sketch, sft, policies, oracle)
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--plan: {outline.world.model} cannot be laid out without its weights: {reason}") from error


def _costed(session: Session, outline: Outline, sketch: Sketch, sft: Stage | None, policies: int, oracle: int) -> Plan:
    costing = Costing(sketch, outline.max_response_tokens, cloned_reference=sft is not None)
    free, resident = free_memory(sketch.device), resident_memory(sketch.device)
    stages = [_stage(outline, costing, free, trained) for trained in outline.trained]
    stages += _references(outline, costing)
    stages += _evaluation(session, outline, costing, policies, oracle)
    return Plan(tuple(stages), sketch.device, free, resident, sketch.base, _pace(outline, costing))


def _stage(outline: Outline, costing: Costing, free: int | None, trained: Trained) -> Planned:
    """Cost what would be trained."""
    stage, method, how, rows = trained
    if method.algorithm.kind != "loss":
        return Planned(stage.name, stage.reused, Cost(None), Cost(None))
    limit, models = outline.max_response_tokens, _reward_models(how.get("reward"))

    def cost(settled: Method, length: int) -> Cost:
        if rows is not None:
            return costing.offline(settled, rows, how.get("seed", 0))
        return costing.on_policy(settled, outline.prompt_groups, length, reward_models=models)

    def lacks(most: Cost) -> bool:
        return free is not None and not stage.reused and most.peak is not None and most.peak > free

    fitting, found = Fitting(method.train), None
    settled, most = method, cost(method, limit)
    while lacks(most) and (tightened := fitting.tighten()) is not None:
        settled, found = as_fits(method, fitting), tightened
        most = cost(settled, limit)
    least = cost(settled, min(_usual_length(outline), limit))
    ways = costing.ways(settled, most, free) if lacks(most) and free else ()
    return Planned(stage.name, stage.reused, least, most, ways, found)


def as_fits(method: Method, fitting: Fitting) -> Method:
    """Return a method in whose settings nothing is left to be found out."""
    train = dataclasses.replace(
        method.train,
        per_device_train_batch_size=fitting.size,
        train_batch_size=fitting.whole,
        gradient_accumulation_steps=1,
        gradient_checkpointing=fitting.recomputes,
    )
    return Method(method.name, type(method.algorithm), method.config, train)


def _references(outline: Outline, costing: Costing) -> list[Planned]:
    """Cost the reference's log-probabilities of rows that unfinished methods learn from, once for those alike."""
    found = {}
    for stage, method, _, rows in outline.trained:
        if rows and reads_reference(method) and not stage.reused:
            found[id(rows), method.train.bf16] = costing.reference(rows)
    return [Planned("reference log-probabilities", False, cost, cost) for cost in found.values()]


def _reward_models(reward: Any) -> int:
    """Return how many reward models on the base score a rollout."""
    if isinstance(reward, Stage):
        return 1
    trained = reward.trained if isinstance(reward, Rewards) else None
    return len(trained.stages) if trained else 0


def _usual_length(outline: Outline) -> int:
    """Return the mean length of the data's responses; the limit where there are none."""
    lengths = [len(ids) for group in (outline.pairs or outline.demonstrations)[:1000] for ids in group.response_ids]
    return sum(lengths) // len(lengths) if lengths else outline.max_response_tokens


def _evaluation(session: Session, outline: Outline, costing: Costing, policies: int, oracle: int) -> list[Planned]:
    """Cost the answers of policies and of the baseline, their scores of held-out pairs, and the oracle line."""
    if not policies:
        return []
    config = session.evaluation
    prompts, pairs = outline.eval_prompts[: config.eval_prompts], outline.heldout[: config.eval_pairs]
    usual, limit = _usual_length(outline), outline.max_response_tokens

    def answers(name: str, samples: int, judged: Sequence[Any] = ()) -> Planned:
        least, most = (
            costing.answering(prompts, min(length, limit), samples=samples, size=config.eval_batch_size)
            for length in (usual, limit)
        )
        both = costing.judging(judged, samples)
        return Planned(name, False, least.beside(both), most.beside(both))

    found = [
        answers(f"evaluation of {policies} policies", policies, pairs),
        answers(f"{config.baseline_draws} answers of the baseline", config.baseline_draws),
    ]
    return [*found, answers(f"oracle line, {oracle} answers", oracle)] if oracle else found


def _pace(outline: Outline, costing: Costing) -> Pace | None:
    """Measure how fast the machine is at the model, on a micro-batch of the first method."""
    _, method, _, rows = outline.trained[0]
    rows = rows or outline.prompt_groups
    batch = costing.typical(rows, method.train.micro_batch)
    if costing.sketch.load_in != "none":
        logger.warning("times are of weights as numbers; restoring them from %s comes on top", costing.sketch.load_in)
    try:
        return measured(costing.sketch, batch, costing.rows_drawn())
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        logger.warning("no time can be foretold: a few layers of the model do not run here: %s", error)
        return None
