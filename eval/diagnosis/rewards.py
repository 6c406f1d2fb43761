"""Symptoms of what is maximised: rewards, preferences and the models of them."""

from __future__ import annotations

import math

import numpy as np

from preflab.eval.diagnosis.base import (
    UNSEEN,
    Array,
    Evidence,
    Observed,
    Shift,
    column_of,
    detector,
    number,
    paired_samples,
    preference_shift,
    sample_shift,
    training_shift,
)
from preflab.eval.records.columns import UNDECIDED
from preflab.eval.records.comparison import Severity
from preflab.eval.statistics import interval

REWARD_CHANGE = 0.1
LONGER = 0.2
FALL_PER_TOKEN = 0.25
LIKELIHOODS = (
    ("chosen_logps", "rejected_logps"),
    ("best_logps", "worst_logps"),
    ("desirable_logratio", "undesirable_logratio"),
)
"""Metrics of preferred and other responses' likelihood: only their changes are read."""
CONFIDENCE_GAP = 0.1
TRAINING_LEAD = 0.15
LENGTH_GAP = 0.25
COIN = 0.05


@detector(
    "reward hacking",
    explanation="The policy raises the reward it was trained on while the reward that counts falls: it has found what "
    "the reward model pays for by mistake.",
    looks_at="`proxy` and `gold` of the samples; without `gold`, accuracy on the held-out pairs; without `proxy`, the "
    "metric `reward`",
    threshold=f"proxy up and gold down, each beyond chance and by {REWARD_CHANGE:g} standard deviations of the "
    "starting policy's scores, below which nobody would see it; without gold, held-out accuracy below one half "
    "beyond chance",
    advice="Raise the KL coefficient (or β) or stop earlier; train the reward model on more and fresher pairs, an "
    "ensemble of them (`reward_ensemble`, `reward_pool: worst`) or with lower capacity; read the samples that gained "
    "most proxy reward.",
)
def reward_hacking(evidence: Evidence) -> Observed:
    """Proxy up, gold or held-out accuracy down."""
    proxy, gold = sample_shift(evidence, "proxy"), sample_shift(evidence, "gold")
    risen = proxy is not None and proxy.rose(REWARD_CHANGE * _deviation(evidence, "proxy"))
    if proxy is None:
        proxy = training_shift(evidence, "reward")  # normalised: its deviation is 1
        risen = proxy is not None and proxy.rose(REWARD_CHANGE)
    if proxy is None:
        return UNSEEN
    if not risen:
        return None
    if gold is not None:
        fallen = gold.fell(REWARD_CHANGE * _deviation(evidence, "gold"))
        return ("serious", f"the training reward rose {proxy}, while the gold reward fell {gold}") if fallen else None
    wins = _wins(evidence)
    accuracy = None if wins is None else interval(wins, rate=True, groups=evidence.prompts())
    if accuracy is None:
        return UNSEEN
    if accuracy.high >= 0.5:
        return None
    share = f"{accuracy.mean:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"
    return "serious", f"the training reward rose {proxy}, while only {share} of held-out pairs are ranked as people do"


@detector(
    "length exploitation",
    explanation="Most of the reward that the policy gained, it gained by answering at greater length.",
    looks_at="`length`, and `proxy` (or `gold`, where there is no proxy) of the samples",
    threshold=f"responses at least {LONGER:.0%} longer and reward up, both beyond chance, and at least half the gain "
    "is what the slope of reward on length (within each policy, above zero beyond chance) gives for the change of "
    "length; serious where the gold reward is known and did not rise",
    advice="Compare length-controlled win rates; normalise log-ratios by length, subtract a price per token from the "
    "reward, or train the reward model on pairs of similar length.",
)
def length_exploitation(evidence: Evidence) -> Observed:
    """The gain is length."""
    length = sample_shift(evidence, "length")
    name = next((n for n in ("proxy", "gold") if sample_shift(evidence, n) is not None), None)
    if length is None or name is None:
        return UNSEEN
    if not length.rose(LONGER * length.before):
        return None
    reward, slope = sample_shift(evidence, name), _length_slope(evidence, name)
    if reward is None or not reward.rose() or slope is None or slope[1] <= 0:
        return None
    share = slope[0] * length.change.mean / reward.change.mean
    if share < 0.5:
        return None
    gold = sample_shift(evidence, "gold")
    severity: Severity = "serious" if gold is not None and not gold.rose() else "warning"
    return severity, (
        f"responses grew {length} tokens; at {number(slope[0])} a token, that alone gives {min(share, 1):.0%} of the "
        f"gain in {name} reward, which went {reward}"
    )


@detector(
    "likelihood displacement",
    explanation="Training on preferences made the preferred responses less likely too: probability goes to responses "
    "that stand in no pair (arXiv 2410.08847).",
    looks_at="the metrics " + ", ".join(f"`{better}` and `{worse}`" for better, worse in LIKELIHOODS) + "; "
    "`chosen_logp` and `rejected_logp` of the held-out pairs against the baseline's, where both are there",
    threshold=f"both fall in training, and on held-out pairs, beyond chance, the preferred by {FALL_PER_TOKEN:g} nats "
    "a token of `chosen_length` (which leaves each token four fifths of its probability): smaller falls come with any "
    "policy that leaves its reference, and larger ones with those that learn from samples of their own (runs that log "
    "`response_length`), which are left out; serious where it fell by more than half of what the margin gained",
    advice="Lower the learning rate or train for fewer steps, raise β, add a likelihood term on the chosen response, "
    "drop pairs whose responses hardly differ, or run SFT on the chosen responses first.",
)
def likelihood_displacement(evidence: Evidence) -> Observed:
    """Log-probabilities of preferred and other responses both fall."""
    names = next((names for names in LIKELIHOODS if all(len(evidence.series(name)) for name in names)), None)
    lengths, samples_its_own = evidence.preferred("chosen_length"), len(evidence.series("response_length")) > 0
    if names is None or lengths is None or samples_its_own:
        return UNSEEN
    trained = [training_shift(evidence, name) for name in names]
    unseen = [preference_shift(evidence, f"{name}_logp") for name in ("chosen", "rejected")]
    places = (("training", trained), ("held-out pairs", unseen))
    measured = [(where, one, other) for where, (one, other) in places if one is not None and other is not None]
    severities = [_displaced(chosen, rejected, float(lengths.mean())) for _, chosen, rejected in measured]
    if not measured:
        return UNSEEN
    if None in severities:
        return None
    where, chosen, rejected = measured[-1]
    severity: Severity = "serious" if "serious" in severities else "warning"
    return severity, (
        f"on {where}, log-probabilities (nats a response) of preferred responses went {chosen}, "
        f"of the others {rejected}"
    )


@detector(
    "miscalibrated reward model",
    explanation="The reward model is surer (or less sure) of its preferences than its accuracy warrants: differences "
    "of reward are then worth less (or more) than the KL they are weighed against.",
    looks_at="`chosen_score` and `rejected_score` of the held-out pairs of a reward model, times its `scale`",
    threshold=f"mean stated confidence σ(|difference|) and accuracy differ beyond chance, and by {CONFIDENCE_GAP:g}",
    advice="Train the reward model for fewer steps or with label smoothing, or rescale its scores by the factor that "
    "minimises held-out log-loss; then set the KL coefficient anew.",
)
def miscalibrated_reward_model(evidence: Evidence) -> Observed:
    """Confidence is not accuracy."""
    lead, right = (None, None) if _is_policy(evidence) else (_lead(evidence), _wins(evidence))
    if lead is None or right is None or evidence.scale is None:
        return UNSEEN
    confidence = 1 / (1 + np.exp(-np.abs(evidence.scale * lead)))
    gap = interval(confidence - right, rate=False, groups=evidence.prompts())
    if gap.low <= 0 <= gap.high or abs(gap.mean) < CONFIDENCE_GAP:
        return None
    much = "more" if gap.mean > 0 else "less"
    severity: Severity = "serious" if abs(gap.mean) > 2 * CONFIDENCE_GAP else "warning"
    return severity, (
        f"it claims to be right in {confidence.mean():.1%} of held-out pairs and is in {right.mean():.1%}: "
        f"{abs(gap.mean):.1%} {much} than it may ({abs(gap.low):.1%} and {abs(gap.high):.1%} bound the gap)"
    )


@detector(
    "uninformative reward model",
    explanation="The reward model ranks held-out pairs no better than a coin: whatever maximises it maximises noise. "
    "Well below one half, chosen and rejected are probably exchanged.",
    looks_at="`chosen_score` and `rejected_score` of the held-out pairs of a reward model",
    threshold=f"the interval of its accuracy reaches down to one half; serious where it ends below {0.5 + COIN:.0%}, "
    "so that more held-out pairs would not help",
    advice="Check a few pairs by hand for exchanged labels, then the learning rate and the number of pairs.",
)
def uninformative_reward_model(evidence: Evidence) -> Observed:
    """Accuracy of one half, or below."""
    wins = None if _is_policy(evidence) else _wins(evidence)
    if wins is None:
        return UNSEEN
    accuracy = interval(wins, rate=True, groups=evidence.prompts())
    if accuracy.low > 0.5:
        return None
    share = f"{accuracy.mean:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"
    severity: Severity = "serious" if accuracy.high < 0.5 + COIN else "warning"
    return severity, f"{share} of {accuracy.n} held-out pairs are ranked as people do"


@detector(
    "overfitting",
    explanation="The run ranks the pairs it was trained on much better than held-out ones: it has learnt pairs by "
    "heart, their wrong labels included.",
    looks_at="the metric `accuracy`, and accuracy on the held-out pairs",
    threshold=f"accuracy of the last quarter of training is {TRAINING_LEAD:g} above held-out accuracy, and above the "
    "upper end of its interval; smaller leads are usual after one pass over the data",
    advice="Train for fewer epochs, lower the learning rate or the adapters' rank, smooth labels, or find more pairs.",
)
def overfitting(evidence: Evidence) -> Observed:
    """Training accuracy far above held-out accuracy."""
    wins, training = _wins(evidence), evidence.series("accuracy")
    if wins is None or len(training) < 4:
        return UNSEEN
    seen, unseen = float(training[-(len(training) // 4) :].mean()), interval(wins, rate=True, groups=evidence.prompts())
    if seen < unseen.mean + TRAINING_LEAD or seen <= unseen.high:
        return None
    held = f"{unseen.mean:.1%} ({unseen.low:.1%} to {unseen.high:.1%})"
    return "warning", f"{seen:.1%} of training pairs are ranked as labelled, but {held} of held-out ones"


@detector(
    "length bias",
    explanation="What the reward model prefers is mostly the longer (or the shorter) response: it is right where that "
    "is the better one, and wrong where it is not. Policies will find this out.",
    looks_at="`chosen_score`, `rejected_score`, `chosen_length`, `rejected_length` of the held-out pairs of a reward "
    "model",
    threshold=f"accuracy on pairs whose chosen response is longer and on those whose chosen is shorter differ beyond "
    f"chance and by {LENGTH_GAP:g} (either way), and it is below one half on one of them",
    advice="Balance the pairs by length, or add a penalty on length; judge by length-controlled win rates.",
)
def length_bias(evidence: Evidence) -> Observed:
    """Right only where the better response is the longer (or the shorter) one."""
    wins = None if _is_policy(evidence) else _wins(evidence)
    lengths = [evidence.preferred(f"{name}_length") for name in ("chosen", "rejected")]
    if wins is None or lengths[0] is None or lengths[1] is None:
        return UNSEEN
    longer, shorter = wins[lengths[0] > lengths[1]], wins[lengths[0] < lengths[1]]
    if min(len(longer), len(shorter)) < 10:
        return UNSEEN
    gap = float(longer.mean() - shorter.mean())
    error = math.sqrt(longer.var(ddof=1) / len(longer) + shorter.var(ddof=1) / len(shorter))
    if abs(gap) < max(LENGTH_GAP, 1.96 * error) or min(longer.mean(), shorter.mean()) >= 0.5:
        return None
    return "warning", (
        f"right on {longer.mean():.1%} of the {len(longer)} pairs whose chosen response is the longer one, on "
        f"{shorter.mean():.1%} of the {len(shorter)} whose chosen is the shorter"
    )


# ---- quantities --------------------------------------------------------------------------------------


def _displaced(chosen: Shift, rejected: Shift, tokens: float) -> Severity | None:
    """Say how bad a fall of both likelihoods is, None where it is none or small."""
    lost, gained = -chosen.change.mean, chosen.change.mean - rejected.change.mean
    if not (chosen.fell(FALL_PER_TOKEN * tokens) and rejected.fell()):
        return None
    return "serious" if lost > gained / 2 else "warning"


def _is_policy(evidence: Evidence) -> bool:
    """Whether the model speaks: a reward model has no samples and gives responses no probability."""
    return evidence.records is not None and (
        bool(evidence.records.samples) or evidence.preferred("chosen_logp") is not None
    )


def _lead(evidence: Evidence) -> Array | None:
    chosen, rejected = evidence.preferred("chosen_score"), evidence.preferred("rejected_score")
    return None if chosen is None or rejected is None else chosen - rejected


def _wins(evidence: Evidence) -> Array | None:
    """Return ``[N]``: 1 where chosen scores higher, 0.5 on ties and undecided pairs, 0 where it scores lower."""
    lead, preference = _lead(evidence), evidence.preferred("preference")
    if lead is None:
        return None
    wins = np.asarray(0.5 * (1 + np.sign(lead)))
    return wins if preference is None else np.where(preference == UNDECIDED, 0.5, wins)


def _deviation(evidence: Evidence, name: str) -> float:
    """Return the standard deviation of the baseline's samples."""
    values = column_of(evidence.baseline.samples, name) if evidence.baseline else None
    return 0.0 if values is None else float(values.std())


def _length_slope(evidence: Evidence, name: str) -> tuple[float, float] | None:
    """Return reward per token of length within each policy, and the lower end of its 95 % interval."""
    pair = paired_samples(evidence)
    if pair is None:
        return None
    both = [(column_of(rows, "length"), column_of(rows, name)) for rows in pair]
    if any(x is None or y is None for x, y in both):
        return None
    lengths, rewards = (
        np.concatenate([v - v.mean() for v in part if v is not None]) for part in zip(*both, strict=True)
    )
    spread, freedom = float((lengths**2).sum()), len(lengths) - 3
    if spread == 0 or freedom < 1:
        return None
    slope = float((lengths * rewards).sum()) / spread
    error = math.sqrt(float(((rewards - slope * lengths) ** 2).sum()) / freedom / spread)
    return slope, slope - 1.96 * error
