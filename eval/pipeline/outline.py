"""A run in outline: its graph, built by the code that builds it, where nothing is built and what would be is noted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from preflab.errors import UserError
from preflab.eval.pipeline.arena import Arena
from preflab.eval.pipeline.asked import Asked
from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.foretelling import foretold
from preflab.eval.pipeline.pieces import comparison_graph, sets_budget
from preflab.eval.pipeline.planning import Plan
from preflab.eval.pipeline.searching import TuneConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.training import check_read, stood_on, training_graph
from preflab.eval.pipeline.tuning import searches_of, tuning_graph
from preflab.eval.pipeline.unbuilt import Outline, UnjudgedArena, Unopened
from preflab.eval.pipeline.way_back import WayBackConfig, shares_of
from preflab.execution.graph import Graph
from preflab.experiment.opening import check_engine, check_reward, quiet_libraries
from preflab.experiment.shared import check_shared
from preflab.method.configured import Method
from preflab.model.devices import check_device, choose_device

logger = logging.getLogger(__name__)


def plan_comparison(session: Session) -> Plan:
    """Say what `compare` would do.

    Raises:
        UserError: for whatever could not finish.
    """
    arena, graph = outlined_comparison(session)
    _say_what_is_not_known(arena)
    assert isinstance(arena.experiment, Outline)
    return foretold(arena.session, arena.experiment, graph, arena.start(arena.seeds[0]))


def outlined_comparison(session: Session) -> tuple[Arena, Graph]:
    """Return where methods would meet, and all that a comparison would build.

    Raises:
        UserError: for whatever could not finish.
    """
    asked = Asked.by(session)
    outline = _outlined(asked.session, asked.methods, tuned=asked.tuned)
    arena = UnjudgedArena(*asked.arena(outline))
    foundation = Unopened(*arena.foundation)
    foundation.say_what_is_closed()
    arena = arena._replace(foundation=foundation)
    pieces = [*(tuning_graph(arena, searches_of(arena)) if asked.tuned else ()), *comparison_graph(arena)]
    return arena, Graph({piece.name: piece for piece in pieces}.values())  # what trials stand on, methods may too


def _say_what_is_not_known(arena: Arena) -> None:
    """Say of which stages the plan knows less than the run will."""
    config, session = arena.config, arena.session
    if (sets := sets_budget(arena)) is not None:
        logger.warning("match: what %s spends is known when it has run; steps are those of epochs", sets.method.label)
    if session.config(TuneConfig).tune:
        logger.warning("tune: methods are planned at the settings that they are configured with")
    goes_back = any(shares_of(session, entry, config.sweep is not None) for entry in arena.entries)
    if goes_back and session.config(WayBackConfig).interpolate_by == "log-probabilities":
        logger.warning("interpolate_by: where log-probabilities are mixed two policies say each token; one is counted")


def plan_training(session: Session, name: str, *, evaluate: bool = True) -> Plan:
    """Say what `train`, or without evaluation `train_only`, would do with a method.

    Raises:
        UserError: for whatever could not finish.
    """
    session.layers.check((name,))
    method, brought = session.method(name), Brought.by(session)
    check_read(session, brought, method, judged=evaluate)
    outline = _outlined(session, [*session.stage_methods(), method])
    foundation = Unopened(*brought.foundation(session, outline, [method.name]))
    foundation.say_what_is_closed()
    graph = training_graph(session, foundation, method, evaluate=evaluate)
    return foretold(session, outline, graph, stood_on(foundation, method)[0])


def _outlined(session: Session, methods: Sequence[Method], *, tuned: bool = False) -> Outline:
    """Open the world, and nothing else.

    Raises:
        UserError: for a world whose data are drawn from the model itself, which takes its weights.
    """
    if session.world.kind == "function":
        raise UserError("--plan: this world draws its preferences from the model, and has none before it runs")
    check_engine(session.lora, methods)
    check_shared(session.lora, methods)
    check_reward(session.world)
    choose_device(session.run.device)
    check_device(session.run.device)
    quiet_libraries()
    return Outline(session, methods, tuned=tuned)
