"""From records to ``comparison.json``: every figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.harness import Records
from eval.metrics import kl_to_reference, preference_accuracy, response_length, reward, win_rate
from eval.statistics import interval

Array = NDArray[np.float64]


def summarise_policy(seeds: Sequence[Records], baseline: Records | None) -> dict[str, Any]:
    """Return the estimates of one method over its training seeds.

    Args:
        seeds: one evaluation per training seed, on the same prompts and pairs.
        baseline: the policy that win rates are against; None leaves them out.
    """
    samples = [records for records in seeds if records.samples]
    summary: dict[str, Any] = dict.fromkeys(("win_rate", "gold_reward", "proxy_reward"))
    if samples and samples[0].samples[0]["gold"] is not None:
        summary["gold_reward"] = _estimate([reward.per_prompt(r.column("gold")) for r in samples])
        if baseline is not None:
            against = baseline.column("gold")
            wins = [win_rate.per_prompt(r.column("gold"), against) for r in samples]
            summary["win_rate"] = _estimate(wins, rate=True)
    if samples and samples[0].samples[0]["proxy"] is not None:
        summary["proxy_reward"] = _estimate([reward.per_prompt(r.column("proxy")) for r in samples])
    summary["heldout_accuracy"] = summarise_accuracy(seeds)
    summary["kl"] = _estimate([kl_to_reference.per_prompt(r.column("log_ratio")) for r in samples])
    summary["response_length"] = _estimate([response_length.per_prompt(r.column("length")) for r in samples])
    summary["ended"] = _estimate([r.column("ended") for r in samples], rate=True)
    return summary


def summarise_accuracy(seeds: Sequence[Records]) -> dict[str, Any] | None:
    """Return held-out accuracy over training seeds, for policies and reward models alike."""
    values = [preference_accuracy.per_prompt(r.column("chosen_score"), r.column("rejected_score")) for r in seeds]
    return _estimate(values, rate=True)


def summarise_training(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what training cost: means over seeds, and the largest peak of memory."""
    names = ("steps", "seconds", "tokens", "sampled_tokens")
    mean = {name: float(np.mean([r[name] for r in records])) for name in names}
    return {**mean, "peak_memory_bytes": max(r["peak_memory_bytes"] for r in records)}


def _estimate(values: Sequence[Array], *, rate: bool = False) -> dict[str, Any] | None:
    return interval(np.stack(values), rate=rate).as_dict() if values else None
