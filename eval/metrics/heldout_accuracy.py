"""How often a method puts the chosen response of a held-out pair first, as one of its figures beside the others."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from preflab.eval.metrics import preference_accuracy
from preflab.eval.metrics.preference_accuracy import ACCURACY, per_prompt

__all__ = ["HeldoutAccuracy", "per_prompt"]


HELDOUT_ACCURACY = replace(
    ACCURACY, key="heldout_accuracy", heading="held-out accuracy", shown=("table", "ranking"), result="accuracy"
)


class HeldoutAccuracy(preference_accuracy.PreferenceAccuracy):
    """`preference_accuracy`, under the name that it has among a method's own figures.

    It stands there because it is the one figure of held-out preferences that policies and reward models share, and
    that tables of methods show.
    """

    of = "heldout"
    order = 31
    measures: ClassVar = (HELDOUT_ACCURACY,)
