"""Metric modules: subclasses of `evaluate.Metric` that need no hub.

Each file works by import (``from eval.metrics import load; load("win_rate")``) and by path
(``evaluate.load("eval/metrics/win_rate.py")``), and holds beside its class a pure function
``per_prompt`` whose values a caller can arrange by training seed and prompt.
"""

from __future__ import annotations

from eval.metrics.base import PromptMetric
from eval.metrics.kl_to_reference import KlToReference
from eval.metrics.preference_accuracy import PreferenceAccuracy
from eval.metrics.response_length import ResponseLength
from eval.metrics.reward import Reward
from eval.metrics.win_rate import WinRate
from preflab.errors import UserError, near_misses

METRICS: dict[str, type[PromptMetric]] = {
    "kl_to_reference": KlToReference,
    "preference_accuracy": PreferenceAccuracy,
    "response_length": ResponseLength,
    "reward": Reward,
    "win_rate": WinRate,
}


def load(name: str) -> PromptMetric:
    """Return a new instance of a metric.

    Raises:
        UserError: if no metric has this name.
    """
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise UserError(f"unknown metric {name!r}{near_misses(name, METRICS)}; known: {known}")
    return METRICS[name]()
