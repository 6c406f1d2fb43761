"""Symptoms of a whole training run's course, read from snapshots of it."""

from __future__ import annotations

from preflab.eval.diagnosis.base import UNSEEN, Evidence, Observed, column_of, detector, number
from preflab.eval.records.comparison import Severity
from preflab.eval.statistics import interval

FALL = 0.1


@detector(
    "over-optimisation",
    explanation="The policy was better earlier in training: what reward it gained since was no gain in the reward that "
    "counts (arXiv 2210.10760).",
    looks_at="`gold` and `proxy` of the snapshots' samples (`--snapshots`) and of the end's, on the same prompts",
    threshold=f"gold at the end below that of the best snapshot by {FALL:g} standard deviations of the starting "
    "policy's scores and beyond chance (at 0.05 over the number of snapshots, as the best is chosen among them), and "
    "proxy not below; serious where gold is no higher than at the start",
    advice="Use that snapshot (its weights are in the training stage's folder) or stop there; raise the KL coefficient "
    "(or β); train the reward model on more and fresher pairs, or an ensemble of them (`reward_ensemble`).",
)
def over_optimisation(evidence: Evidence) -> Observed:
    """Gold fell since a snapshot, proxy did not."""
    steps = [step for step, _ in evidence.course]
    golds, proxies = ([column_of(found.samples, name) for _, found in evidence.course] for name in ("gold", "proxy"))
    known = [gold for gold in golds if gold is not None]
    if len(known) < max(3, len(golds)):
        return UNSEEN
    start, *between, end = known
    best = max(range(len(between)), key=lambda i: between[i].mean())
    before, after = proxies[1 + best], proxies[-1]
    fall = interval(end - between[best], level=1 - 0.05 / len(between), rate=False)
    if fall.high >= 0 or fall.mean > -FALL * start.std():
        return None
    told = ""
    if before is not None and after is not None:
        if interval(after - before, rate=False).high < 0:
            return None
        told = f", while the training reward went from {number(before.mean())} to {number(after.mean())}"
    severity: Severity = "serious" if end.mean() <= start.mean() else "warning"
    peak, step = number(between[best].mean()), f"{steps[1 + best]:g}"
    return severity, (
        f"the gold reward was {peak} at step {step} and {number(end.mean())} at the end "
        f"(change {number(fall.low)} to {number(fall.high)}){told}"
    )
