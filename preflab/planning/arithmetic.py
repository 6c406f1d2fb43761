"""How much arithmetic passes take, on a model without weights: the counts of `preflab.model.work`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preflab.method.contract import Batch, Needs, Role
from preflab.model.work import NO_ADAPTER, Passed, Weights, Work, sampled, scored
from preflab.planning.footprint import Sketch


class Arithmetic:
    """FLOPs of passes through a model.

    Args:
        sketch: the model.
    """

    def __init__(self, sketch: Sketch) -> None:
        self.sketch, self.work = sketch, Work(sketch.model)

    def training(self, batch: Batch[Any], needs: Needs, *, recomputes: bool, at_hand: Sequence[Role] = ()) -> int:
        """Return those of a loss and its way back.

        Args:
            batch: what it reads.
            needs: of the method.
            recomputes: whether activations are computed twice.
            at_hand: roles whose scores need no pass.
        """
        learning = [role for role in needs.scores if role in needs.trains]
        if needs.joint:  # one pass for both
            learning = learning[:1]
        others = [role for role in needs.scores if role not in needs.trains and role not in at_hand]
        found = sum(self._pass(batch, role, learns=True, recomputes=recomputes) for role in learning)
        # Unless the gradient of one role is deaf to the scores of another, these are computed beforehand.
        again = [] if needs.separable else learning[1:]
        return found + self.scoring(batch, [*others, *again])

    def scoring(self, batch: Batch[Any], roles: Sequence[Role]) -> int:
        """Return those of passes without a way back."""
        return sum(self._pass(batch, role) for role in roles)

    def drawing(self, batch: Batch[Any]) -> int:
        """Return those of drawing the responses of a batch."""
        return self._flops(sampled(batch))

    def _pass(self, batch: Batch[Any], role: Role, **how: bool) -> int:
        head = role in ("policy", "reference")
        passed = scored(batch, self.sketch.path, last=role == "reward", head=head)
        return self._flops(passed, self.sketch.weights("policy" if role == "reference" else role), **how)

    def _flops(self, passed: Passed, adapter: Weights = NO_ADAPTER, **how: bool) -> int:
        before = self.work.flops
        self.work.add(passed, adapter, **how)
        return self.work.flops - before
