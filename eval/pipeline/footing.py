"""What methods stand on as pieces: starts and reward models, each drawn for a seed or one for all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from preflab.execution.graph import Piece
from preflab.experiment.foundation import NONE, REWARD_MODEL, numbered

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.experiment.foundation import Foundation


class Footing(NamedTuple):
    """What the methods of every seed stand on.

    Attributes:
        foundation: gives the stages.
        redraw: what each seed draws anew.
    """

    foundation: Foundation
    redraw: Sequence[str] = ()

    def start_name(self, seed: int) -> str:
        """Return what the start of a seed's methods is called, trained or not."""
        label = self.foundation.start_label
        return numbered(label, seed) if self.foundation.redrawn(self.redraw).get(label) else label

    def starts(self, seed: int) -> list[Piece]:
        """Return where a seed's methods start: one piece, or none where that is the model itself."""
        if self.foundation.begin == NONE:
            return []
        name = self.start_name(seed)
        return [Piece(name, partial(self.foundation.start_of, seed, self.redraw), (), (name,))]

    def rewards(self, seed: int) -> list[Piece]:
        """Return the reward models that a seed's methods maximise, one by one, or given ones together."""
        foundation, below = self.foundation, names(self.starts(seed))
        if not foundation.reads_models:
            return []
        if foundation.given:
            stages = ("reward", *(f"reward-{number}" for number in range(1, len(foundation.given))))
            build = partial(foundation.replications, [seed], self.redraw)
            return [Piece(f"reward on {self.start_name(seed)}", build, below, stages)]
        on = seed if foundation.redrawn(self.redraw).get(REWARD_MODEL) else 0
        return [
            Piece(name, partial(self._reward_model, seed, on, number), below, (name,))
            for number, name in enumerate(foundation.reward_names(on))
        ]

    def _reward_model(self, seed: int, on: int, number: int) -> Stage:
        """Train a reward model of a seed, on its own sample of preferences where each draws its own."""
        anew = self.foundation.redrawn(self.redraw).get(REWARD_MODEL)
        own = self.foundation.of_seed(seed, self.redraw) if anew else self.foundation
        return own.reward_model(self.foundation.start_of(seed, self.redraw), on, number)


def names(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """Return what pieces are called."""
    return tuple(piece.name for piece in pieces)
