"""What a reader must know of a judge that compares, in sentences: for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from preflab.eval.records.comparison import Judge
from preflab.eval.records.figures import Figure

SENTENCES = (
    ("missing", "{:,.0f} pairs had no answer and are left out."),
    ("unmatched", "{:,.0f} pairs that were judged are no answers of two methods here."),
    ("inconsistent", "On {:.0%} of the pairs the two orders gave different answers; these count as ties."),
    ("shown_first", "It preferred the answer shown first with {:.0%}; 50% leans nowhere."),
    ("unparsed", "{:,.0f} replies held no verdict and count as ties."),
    ("refused", "{:,.0f} questions were refused and count as ties."),
)


def judge_sentences(judge: Judge | None) -> list[str]:
    """Return what is to be known of a judge: how far it agrees with the data's labels, what it says of itself."""
    labels = _labels(judge.heldout_accuracy) if judge and judge.heldout_accuracy else []
    report = judge.report if judge else None
    if report is None:
        return labels
    found = [
        text.format(report[name]).replace("%", " %")
        for name, text in SENTENCES
        if _number(report.get(name)) and (report[name] or name == "shown_first")
    ]
    own = report.get("sentences")
    own = [str(sentence) for sentence in own] if isinstance(own, list | tuple) else []
    return [*labels, *found, *_agreement(report.get("agreement")), *_costs(report), *own]


def _labels(share: Figure) -> list[str]:
    interval = f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return [f"The judge agrees with the labels of {100 * share.mean:.1f} % {interval} of {share.n:,} held-out pairs."]


def _agreement(agreement: Any) -> list[str]:
    if not isinstance(agreement, Mapping) or not _number(agreement.get("observed")):
        return []
    corrected = agreement.get("corrected")
    chance = f"; {corrected:.2f} after correction for chance" if _number(corrected) else ""
    return [
        f"Annotators agree on {agreement['observed']:.0%} of the pairs they share".replace("%", " %")
        + f"{chance}; a pair counts once, by the mean of its verdicts."
    ]


def _costs(report: Mapping[str, Any]) -> list[str]:
    counts = [report.get(name) for name in ("answers", "prompt_tokens", "completion_tokens")]
    if not all(map(_number, counts)):
        return []
    cost = f", cost {report['cost']:,.2f}" if _number(report.get("cost")) else ""
    answers, prompt, completion = counts
    return [f"{answers:,.0f} answers from {prompt:,.0f} prompt and {completion:,.0f} completion tokens{cost}."]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
