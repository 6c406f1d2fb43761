"""Symptoms of the optimisation itself, read from the metrics."""

from __future__ import annotations

import numpy as np

from preflab.eval.diagnosis.base import UNSEEN, Evidence, Observed, column_of, detector, number
from preflab.eval.records.comparison import Severity

FLAT_GROUPS = 0.8
UNMOVED = 0.01
CLIPPED, MOSTLY_CLIPPED = 0.3, 0.8
EXPLAINED = 0.1
GRADIENT_GROWTH = 10.0
FIRST_RATIO, FIRST_DRIFT = 1e-3, 1e-4


@detector(
    "no reward variance",
    explanation="The reward tells responses to one prompt hardly ever apart, so that there is nothing to learn from: "
    "advantages are zero, or noise.",
    looks_at="the metric `zero_variance_groups`; `reward` from line to line; `proxy` of both policies' samples",
    threshold=f"{FLAT_GROUPS:.0%} of groups without variance in the second half of training (groups that are all right "
    "or all wrong are common with rewards of 0 and 1, most of them are not), or one reward for everything",
    advice="Choose prompts that are neither always nor never solved, take more samples a prompt, or a reward with more "
    "levels; check that the reward function reads the response.",
)
def no_reward_variance(evidence: Evidence) -> Observed:
    """All rewards are equal, overall or within each prompt's group."""
    flat = evidence.late("zero_variance_groups")
    if flat is not None and flat.mean >= FLAT_GROUPS:
        return "serious", f"in the second half of training {flat.mean:.1%} of groups had no variance of reward"
    rewards = evidence.series("reward")
    if len(rewards) > 2 and np.ptp(rewards) <= 1e-6 * max(1.0, float(np.abs(rewards).max())):
        return "serious", f"all {len(rewards)} lines of metrics have the reward {number(float(rewards[0]))}"
    evaluations = [e for e in (evidence.records, evidence.baseline) if e is not None]
    scores = [column_of(e.samples, "proxy") for e in evaluations]
    found = [values for values in scores if values is not None]
    if len(found) == 2 and np.ptp(np.concatenate(found)) == 0:
        count = len(found[0])
        return (
            "serious",
            f"the training reward is {number(float(found[0][0]))} for all {count} samples of both policies",
        )
    return None if flat is not None or len(rewards) > 2 or len(found) == 2 else UNSEEN


@detector(
    "unmoved policy",
    explanation="Training left the policy where it was.",
    looks_at="`log_ratio` of the samples, and that there are metrics of its training",
    threshold=f"mean |log π/π_ref| below {UNMOVED:g} nats a response, which no comparison could see; runs that log "
    "`nll` are left out: a policy trained on demonstrations becomes the reference itself",
    advice="Raise the learning rate or the number of steps, or lower the KL coefficient (β); make sure that the reward "
    "varies, that advantages are not clipped away, and that the trained adapter is the one that is evaluated.",
)
def unmoved_policy(evidence: Evidence) -> Observed:
    """The trained policy still is the reference."""
    ratios, demonstrated = evidence.sampled("log_ratio"), len(evidence.series("nll")) > 0
    if ratios is None or not evidence.metrics or demonstrated:
        return UNSEEN
    if float(np.abs(ratios).mean()) >= UNMOVED:
        return None
    steps = evidence.metrics[-1].get("step", "all its")
    mean = number(float(np.abs(ratios).mean()))
    return "serious", f"after {steps} steps, mean |log π/π_ref| of {len(ratios)} samples is {mean} nats a response"


@detector(
    "clipped updates",
    explanation="The policy leaves the clip on most of what it learns from, so that much of each rollout teaches "
    "nothing: steps are too large for the passes taken.",
    looks_at="the metric `clip_fraction`",
    threshold=f"above {CLIPPED:.0%} in the second half of training (around 5 % is usual, arXiv 2402.14740); serious "
    f"above {MOSTLY_CLIPPED:.0%}: clipped to nothing",
    advice="Lower the learning rate, take fewer passes over a rollout (rollout_epochs) or larger minibatches, set "
    "stop_kl.",
)
def clipped_updates(evidence: Evidence) -> Observed:
    """Most ratios are outside of the clip."""
    clipped = evidence.late("clip_fraction")
    if clipped is None:
        return UNSEEN
    if clipped.low < CLIPPED:
        return None
    severity: Severity = "serious" if clipped.mean >= MOSTLY_CLIPPED else "warning"
    return severity, f"in the second half of training {clipped.mean:.1%} of actions were outside of the clip"


@detector(
    "useless value function",
    explanation="The value function explains nothing of the returns: as a baseline it adds cost, and noise where it is "
    "wrong.",
    looks_at="the metric `explained_variance` (1: perfect, 0: no better than the mean return)",
    threshold=f"below {EXPLAINED:g} beyond chance in the second half of training; earlier, values are still learnt",
    advice="Start the value from the reward model, give it value_warmup_rollouts, a higher "
    "value_learning_rate, a wider value_clip_range or none; or take a method without one.",
)
def useless_value_function(evidence: Evidence) -> Observed:
    """Explained variance near zero, or below."""
    explained = evidence.late("explained_variance")
    if explained is None:
        return UNSEEN
    if explained.high >= EXPLAINED:
        return None
    return "warning", (
        f"in the second half of training it explained {number(explained.mean)} of the variance of returns "
        f"({number(explained.low)} to {number(explained.high)})"
    )


@detector(
    "gradient explosion",
    explanation="Gradients grow as training goes on: each step makes the next one worse.",
    looks_at="the metric `grad_norm`, before clipping",
    threshold=f"median of the last quarter of the lines {GRADIENT_GROWTH:g} times that of the second: fresh adapters "
    "and heads start with small gradients, and from there on settled runs shrink",
    advice="Lower the learning rate, add warmup_steps, lower max_grad_norm; look for rewards or log-ratios far out.",
)
def gradient_explosion(evidence: Evidence) -> Observed:
    """Gradient norms have grown tenfold."""
    norms = evidence.series("grad_norm")
    quarter = len(norms) // 4
    if quarter < 2:
        return UNSEEN
    early, late = float(np.median(norms[quarter : 2 * quarter])), float(np.median(norms[-quarter:]))
    if early <= 0 or late < GRADIENT_GROWTH * early:
        return None
    return "warning", f"the median norm went from {number(early)} to {number(late)}, largest {number(norms.max())}"


@detector(
    "first ratio",
    explanation="On the first minibatch of a rollout policy and behaviour policy are the same, but the two passes that "
    "score it differ: dropout, another temperature, other precision, or stale log-probabilities.",
    looks_at="the metrics `ratio` and `approx_kl` on a line for step 1 (logging_steps: 1)",
    threshold=f"ratio off 1 by {FIRST_RATIO:g}, or drift above {FIRST_DRIFT:g} nats a token; in float32 both are "
    "exact to 1e-6",
    advice="Score behaviour and training passes in the same mode, precision and micro-batches, dropout off, logits "
    "divided by the sampling temperature in both.",
)
def first_ratio(evidence: Evidence) -> Observed:
    """The policy differs from itself before it has learnt anything."""
    if not evidence.metrics or evidence.metrics[0].get("step") != 1:
        return UNSEEN
    first = evidence.metrics[0]
    ratio, drift = first.get("ratio"), first.get("approx_kl")
    if ratio is None:
        return UNSEEN
    if abs(ratio - 1) <= FIRST_RATIO and (drift or 0.0) <= FIRST_DRIFT:
        return None
    passed = "" if drift is None else f", and KL(π_old‖π) {number(drift)} nats a token"
    return "serious", f"at step 1 the mean ratio is {ratio:.6g}{passed}"
