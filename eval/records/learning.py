"""What ``comparison.json`` says of methods on part of the preferences."""

from __future__ import annotations

from dataclasses import dataclass

from preflab.eval.records.figures import Figure


@dataclass(frozen=True, kw_only=True)
class LearningPoint:
    """A method on part of the preferences, every seed on a part of its own.

    Attributes:
        method: its name.
        fraction: of the preferences, by groups; 1 is the method as compared.
        preferences: how many it, or the reward model that it maximises, learns from (pairs, rankings or single
            responses), mean over seeds.
        gold_reward: mean; null where rewards are not known.
        win_rate: against answers of the start; null where nobody judges.
        heldout_accuracy: of held-out pairs; null where it gives no scores.
    """

    method: str
    fraction: float
    preferences: float
    gold_reward: Figure | None
    win_rate: Figure | None
    heldout_accuracy: Figure | None
