"""Symptoms of what the data do not cover: mass that a method moves where they say nothing."""

from __future__ import annotations

import math

from preflab.eval.diagnosis.base import UNSEEN, Evidence, Observed, detector, number
from preflab.eval.records.comparison import Severity
from preflab.eval.statistics import interval

SHARE, MOST = 0.05, 0.2
RULE_OF_THREE = 3.0


@detector(
    "mass where data say nothing",
    explanation="Where log π/π_ref of an answer exceeds log(n/3), the reference puts less than 3/n of its own mass on "
    "all such answers together, so that n responses drawn from it may well hold none (the rule of three). What learns "
    "from a fixed set is told nothing there, and its loss does not mind: the difference between two responses that are "
    "seen can be had by moving both, and what they lose goes to responses that nobody compared.",
    looks_at="`log_ratio` of the samples; `responses` and `sampled_tokens` of the training record, of methods that "
    "sample nothing",
    threshold=f"more than {SHARE:.0%} of the answers beyond chance, with n the responses that went through training; "
    f"serious above {MOST:.0%}",
    advice="Raise β, stop earlier, or add the likelihood of the chosen response (RPO, CPO); better, give the method "
    "responses of that kind: pairs whose rejected response is one of its own answers, or a method that samples.",
)
def mass_where_data_say_nothing(evidence: Evidence) -> Observed:
    """Answers that the data cannot have held."""
    taught, ratios = evidence.training.get("responses"), evidence.sampled("log_ratio")
    if not taught or evidence.training.get("sampled_tokens") or ratios is None or len(ratios) < 2:
        return UNSEEN
    there = ratios > math.log(max(taught, RULE_OF_THREE) / RULE_OF_THREE)
    share = interval(there.astype(float), rate=True)
    if share.low <= SHARE:
        return None
    said = f"{number(100 * share.mean)} % of its answers ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
    severity: Severity = "serious" if share.low > MOST else "warning"
    return severity, f"{said} are such as {taught} responses of the reference hold next to none of"
