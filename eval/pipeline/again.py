"""The graph of a comparison made again by another process, which has the settings and joins the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from preflab.eval.pipeline.asked import Asked
from preflab.eval.pipeline.pieces import comparison_graph
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.tuning import searches_of, tuning_graph
from preflab.execution.graph import Graph

if TYPE_CHECKING:
    from preflab.disk.stages import Run
    from preflab.eval.pipeline.arena import Arena


def tuning_again(session: Session) -> tuple[Run, Graph]:
    """Join the run of a comparison, and return what its tuning builds."""
    arena = _arena(session)
    return arena.experiment.run, tuning_graph(arena, searches_of(arena))


def comparison_again(session: Session, best: Mapping[str, Mapping[str, float]]) -> tuple[Run, Graph]:
    """Join the run of a comparison, and return what it builds with methods at these settings."""
    arena = _arena(session).at(best)
    return arena.experiment.run, comparison_graph(arena)


def _arena(session: Session) -> Arena:
    asked = Asked.by(session)
    return asked.arena(asked.session.joined(asked.methods, tuned=asked.tuned))
