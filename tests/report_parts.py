"""Parts of made-up comparisons that bear no name of a method."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def estimate(mean: float, half: float, n: int = 256) -> Row:
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4), "n": n}


def preferences(shift: int) -> Row:
    """Return how a method ranks held-out pairs, the better the larger `shift`."""
    accuracy = 0.6 + 0.04 * shift
    bins = [0.55, 0.65, 0.75, 0.85, 0.95]
    return {
        "score": "implicit reward",
        "accuracy": estimate(accuracy, 0.02, 1900),
        "margin": estimate(0.8 + 0.2 * shift, 0.1, 1900),
        "auc": estimate(accuracy - 0.01, 0.02, 1900),
        "log_loss": estimate(0.62 - 0.02 * shift, 0.02, 1900),
        "brier": estimate(0.215 - 0.01 * shift, 0.008, 1900),
        "ece": estimate(0.03 + 0.02 * shift, 0.01, 1900),
        "ties": estimate(0.01, 0.005, 1900),
        "undecided": 0,
        "ece_by_chance": 0.02,
        "recalibrated": None,
        "subset_mean": estimate(accuracy, 0.02, 1900),
        "length_correlation": estimate(0.1, 0.05, 1900),
        "scale": {"value": 0.1, "source": "beta of the method"},
        "subsets": {
            "on topic": {"accuracy": estimate(accuracy + 0.05, 0.03, 1100), "n": 1100},
            "tone": {"accuracy": estimate(accuracy - 0.06, 0.03, 800), "n": 800},
        },
        "length_buckets": [
            {
                "low": low,
                "high": high,
                "accuracy": estimate(accuracy + 0.0025 * shift * (low or -40), 0.05, 380),
                "n": 380,
            }
            for low, high in [(None, -20), (-20, -5), (-5, 5), (5, 20), (20, None)]
        ],
        "reliability": [
            {
                "confidence": c,
                "accuracy": c - 0.03 * shift,
                "low": c - 0.03 * shift - 0.05,
                "high": c - 0.03 * shift + 0.05,
                "n": 380,
            }
            for c in bins
        ],
        "likelihood": {"accuracy": estimate(0.56, 0.02, 1900)},
        "normalised_likelihood": {"accuracy": estimate(0.58, 0.02, 1900)},
    }
