"""``--plan``: what a run would do and take. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from preflab.settings.fields import option

if TYPE_CHECKING:
    from preflab.eval.pipeline.stage_costs import Cost
    from preflab.planning.pace import Pace


@dataclass(frozen=True)
class PlanConfig:
    """Whether the run is only planned."""

    plan: bool = option(
        False,
        "say what the run would do and take (steps, tokens, memory, disk, time), and train nothing",
        brief="say what it would take, and train nothing",
    )


PLAN: dict[str, type] = {"plan": PlanConfig}
"""The configs of a session that can be planned."""


class Planned(NamedTuple):
    """A stage as it would be.

    Attributes:
        name: of the stage, or of several alike.
        finished: whether the run folder has it.
        least: what it takes where sampled responses are as long as those of the data.
        most: what it takes where they reach the limit.
        ways: settings under which it would fit; none where it fits as it is.
        found: what settings that leave it open would come to.
        needs: the pieces of the run that it stands on.
    """

    name: str
    finished: bool
    least: Cost
    most: Cost
    ways: tuple[str, ...] = ()
    found: str | None = None
    needs: tuple[str, ...] = ()


class Plan(NamedTuple):
    """What a run would do.

    Attributes:
        stages: in order.
        device: where models would go.
        free: bytes that are free there; None where nobody says.
        resident: bytes of the libraries, which are taken already.
        weights: bytes of the base.
        pace: of the machine at this model; None where it was not measured.
    """

    stages: tuple[Planned, ...]
    device: str
    free: int | None
    resident: int
    weights: int
    pace: Pace | None

    def fits(self, bytes_held: int) -> bool:
        """Whether there is room for so much beside the libraries."""
        return self.free is None or bytes_held <= self.free
