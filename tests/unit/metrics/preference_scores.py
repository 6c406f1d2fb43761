"""Scores of pairs, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit


def rows(chosen: Any, rejected: Any, **columns: Any) -> list[dict[str, Any]]:
    """Records of held-out pairs, numbered from 100 so that a row is no position."""
    table = {"chosen_score": chosen, "rejected_score": rejected, **columns}
    return [
        {"row": 100 + at, **dict(zip(table, values, strict=True))}
        for at, values in enumerate(zip(*(np.asarray(v).tolist() for v in table.values()), strict=True))
    ]


def calibrated(generator: np.random.Generator, n: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose pairs are labelled by Bradley-Terry itself, at a scale."""
    scores = generator.normal(size=(2, n)) * 2
    swap = generator.random(n) > expit(scale * (scores[0] - scores[1]))
    scores[:, swap] = scores[::-1, swap]
    return scores[0], scores[1]
