"""Records and training lines with and without a symptom."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from preflab.eval.diagnosis import Evidence, Finding, diagnose

N = 100


def spread(mean, deviation=1.0, seed=0, count=N):
    """Return values with exactly this mean and deviation."""
    values = np.random.default_rng(seed).standard_normal(count)
    return (mean + deviation * (values - values.mean()) / values.std()).tolist()


def table(**columns):
    """Return rows of columns; a single value stands for one in every row."""
    count = max(len(v) for v in columns.values() if isinstance(v, list))
    full = {name: v if isinstance(v, list) else [v] * count for name, v in columns.items()}
    return [dict(zip(full, row, strict=True)) for row in zip(*full.values(), strict=True)]


PROMPTS = [f"prompt {i}" for i in range(N)]


def samples(**columns):
    return SimpleNamespace(samples=table(prompt=PROMPTS, **columns), preferences=[])


def pairs(**columns):
    return SimpleNamespace(samples=[], preferences=table(row=list(range(N)), **columns))


def lines(**columns):
    count = max(len(v) for v in columns.values())
    return table(step=list(range(1, count + 1)), **columns)


def against(before, after):
    return Evidence(records=after, baseline=before)


def over_training(golds, proxies, noise=0.5):
    """Return evidence of a course: mean gold and proxy reward at each moment, steps 0, 10, 20 …"""
    rows = [
        samples(gold=spread(gold, noise, seed=2 * i), proxy=spread(proxy, noise, seed=2 * i + 1))
        for i, (gold, proxy) in enumerate(zip(golds, proxies, strict=True))
    ]
    return Evidence(course=[(10.0 * i, found) for i, found in enumerate(rows)])


def words(kinds, length=6, seed=0):
    """Return a text for each prompt, of words drawn from so many kinds."""
    random = np.random.default_rng(seed)
    return [" ".join(f"w{random.integers(kinds)}" for _ in range(length)) for _ in range(N)]


def found(evidence, symptom):
    return next((finding for finding in diagnose(evidence) if finding.symptom == symptom), None)


def finding(symptom, severity="warning", evidence="numbers"):
    return Finding(symptom, severity, evidence, "what it is", "what to try")


NEITHER = {"gold": spread(0), "proxy": spread(0)}
LENGTHS = spread(10, 3, seed=1)
LONGER = [2 * length for length in LENGTHS]
RISING = np.linspace(-20, -10, 40).tolist()
FALLING = np.linspace(-20, -30, 40).tolist()
HALF = [1.0, 0.0] * (N // 2)
