"""What every stage of a graph would take, one after the other, foretold from an outline of the run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from preflab.disk.stages import Stage
from preflab.errors import UserError
from preflab.eval.pipeline.planning import Plan, Planned
from preflab.eval.pipeline.stage_costs import Cost, Costing
from preflab.eval.pipeline.yardsticks import LINE
from preflab.eval.subjects import RewardSubject, ScoringJudge, TrainedReward
from preflab.experiment.rewards import Rewards
from preflab.method.configured import Method
from preflab.planning.footprint import Sketch, free_memory, resident_memory, sketched
from preflab.planning.pace import Pace, measured
from preflab.training.fitting import Fitting

if TYPE_CHECKING:
    from preflab.eval.pipeline.session import Session
    from preflab.eval.pipeline.unbuilt import Outline, Trained
    from preflab.execution.graph import Graph

logger = logging.getLogger(__name__)

SCORERS = (RewardSubject.kind, ScoringJudge.kind, TrainedReward.kind)
"""What the subjects of evaluations are called that answer no prompt."""


def foretold(session: Session, outline: Outline, graph: Graph, sft: Stage | None) -> Plan:
    """Cost every stage of a graph.

    Args:
        session: the settings.
        outline: what the pieces build on, which notes what they ask for.
        graph: the pieces.
        sft: where the first seed's methods start; None: the bare base.

    Raises:
        UserError: for a model whose layers do not run without weights.
    """
    sketch = sketched(outline.world.model, session.lora, trust_remote_code=session.world.trust_remote_code)
    try:
        return _costed(session, outline, graph, sketch, sft)
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--plan: {outline.world.model} cannot be laid out without its weights: {reason}") from error


def _costed(session: Session, outline: Outline, graph: Graph, sketch: Sketch, sft: Stage | None) -> Plan:
    costing = Costing(sketch, outline.max_response_tokens, cloned_reference=sft is not None)
    free, resident = free_memory(sketch.device), resident_memory(sketch.device)
    found = list[Planned]()
    for piece, asked in outline.asks(graph):
        costed = []
        for stage, inputs in asked:
            if (trained := outline.trained.get(stage.key)) is not None:
                costed.append(_training(outline, costing, free, trained))
            else:
                least, most = (_cost(session, outline, costing, stage, inputs, length) for length in _lengths(outline))
                costed.append(Planned(stage.name, stage.reused, least, most))
        if len(costed) == 1:
            costed = [costed[0]._replace(name=piece.name)]
        if not costed:  # what it builds hangs on what is not there yet
            costed = [Planned(piece.name, False, Cost(None), Cost(None))]
        found += [one._replace(needs=graph.nearest(piece)) for one in costed]
    return Plan(tuple(found), sketch.device, free, resident, sketch.base, _pace(outline, costing))


def _cost(
    session: Session, outline: Outline, costing: Costing, stage: Stage, inputs: Mapping[str, Any], length: int
) -> Cost:
    """Cost what trains nothing: the reference's scores, an evaluation, the oracle line's samples."""
    config = session.evaluation
    if stage.key in outline.scored:
        return costing.reference(outline.scored[stage.key])
    if "config" not in inputs:  # what was brought along is taken over
        return Cost(None)
    prompts = outline.eval_prompts[: inputs["config"]["eval_prompts"]]
    if stage.name == LINE:
        return costing.answering(prompts, length, samples=config.oracle_samples, size=config.eval_batch_size)
    pairs = costing.judging(outline.heldout[: inputs["config"]["eval_pairs"]], 1)
    if inputs["subject"][0] in SCORERS:
        return pairs
    return costing.answering(prompts, length, samples=1, size=config.eval_batch_size).beside(pairs)


def _training(outline: Outline, costing: Costing, free: int | None, trained: Trained) -> Planned:
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


def _reward_models(reward: Any) -> int:
    """Return how many reward models on the base score a rollout."""
    if isinstance(reward, Stage):
        return 1
    trained = reward.trained if isinstance(reward, Rewards) else None
    return len(trained.stages) if trained else 0


def _lengths(outline: Outline) -> tuple[int, int]:
    """Return how many tokens sampled responses have at the least and at the most: those of the data, and the limit."""
    return min(_usual_length(outline), outline.max_response_tokens), outline.max_response_tokens


def _usual_length(outline: Outline) -> int:
    """Return the mean length of the data's responses; the limit where there are none."""
    lengths = [len(ids) for group in (outline.pairs or outline.demonstrations)[:1000] for ids in group.response_ids]
    return sum(lengths) // len(lengths) if lengths else outline.max_response_tokens


def _pace(outline: Outline, costing: Costing) -> Pace | None:
    """Measure how fast the machine is at the model, on a micro-batch of the first method."""
    _, method, _, rows = next(iter(outline.trained.values()))
    rows = rows or outline.prompt_groups
    batch = costing.typical(rows, method.train.micro_batch)
    if costing.sketch.load_in != "none":
        logger.warning("times are of weights as numbers; restoring them from %s comes on top", costing.sketch.load_in)
    try:
        return measured(costing.sketch, batch, costing.rows_drawn())
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        logger.warning("no time can be foretold: a few layers of the model do not run here: %s", error)
        return None
