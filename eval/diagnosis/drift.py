"""Symptoms of where the policy went: its KL to the reference, its entropy, its text."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from preflab.eval.diagnosis.base import (
    UNSEEN,
    Array,
    Evidence,
    Observed,
    Row,
    Shift,
    column_of,
    detector,
    number,
    paired_samples,
    sample_shift,
    training_shift,
)
from preflab.eval.records.columns import kl_to_reference
from preflab.eval.records.comparison import Severity
from preflab.eval.statistics import interval

KL_PER_TOKEN, KL_PER_RESPONSE = 1.0, 10.0
KL_OVER_TARGET = 2.0
NEGATIVE_KL = 0.02
MISMATCH_PER_TOKEN = 0.01
ENTROPY_LEFT, ENTROPY_GONE = 0.3, 0.1
ENTROPY_GROWTH, ENTROPY_RISE = 1.3, 0.3
SAME_ANSWERS = 0.2
FEW_WORDS = 4
DISTINCT_LEFT = 0.5
WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
"""What spaces part, and each character of Chinese and Japanese, which part no words."""
REPEATED = 0.1
ENDED_LOST = 0.1


@detector(
    "KL blow-up",
    explanation="The policy has left the reference's support: what it says the reference would hardly ever say, and "
    "there no reward model trained on the reference's responses can be trusted.",
    looks_at="`kl` (else `log_ratio`) and `length` of the samples; else the metrics `kl` and `response_length`; `kl` "
    "against the setting `kl_target`",
    threshold=f"KL above {KL_PER_TOKEN:g} nat a token (each token e times likelier than under the reference) and "
    f"{KL_PER_RESPONSE:g} nats a response (the best of 60,000 samples is no farther), both beyond chance; or above "
    f"{KL_OVER_TARGET:g} times the target",
    advice="Raise the KL coefficient (β), lower the learning rate, take fewer passes over a rollout, or set kl_target.",
)
def kl_blow_up(evidence: Evidence) -> Observed:
    """KL per token beyond anything useful."""
    target, known = evidence.settings.get("kl_target"), _divergences(evidence)
    for kls, lengths, where in known:
        # Of one-word answers, a nat a token is no more than a choice among three.
        if interval(kls - KL_PER_TOKEN * lengths, rate=False).low > 0 and interval(kls).low > KL_PER_RESPONSE:
            size = f"{number(kls.mean() / lengths.mean())} nats a token, {number(kls.mean())} a response"
            return "serious", f"KL to the reference is {size} ({where})"
        if target and interval(kls - KL_OVER_TARGET * target, rate=False).low > 0:
            return (
                "warning",
                f"KL to the reference is {number(kls.mean())} nats a response ({where}), target {target:g}",
            )
    return None if known else UNSEEN


@detector(
    "negative KL",
    explanation="No KL divergence is negative. Its estimate is, beyond chance, where the responses were not drawn from "
    "the policy that scores them: another temperature, top-k or top-p, a minimum length, or stale weights in the "
    "sampler.",
    looks_at="`log_ratio` of the samples; the metric `kl` in the second half of training",
    threshold=f"the 99.9 % interval lies below 0, and the mean below −{NEGATIVE_KL:g} nats a response; the level is "
    "high because a policy close to its reference has a KL near 0 whose estimate is below it every other time",
    advice="Sample at temperature T without filters and divide the logits of every log-probability by T; make sure "
    "that the sampler gets the weights of each step, the right adapter and the same tokens.",
)
def negative_kl(evidence: Evidence) -> Observed:
    """The k1 estimate is below zero beyond chance."""
    logged = evidence.series("kl")
    places = ((evidence.sampled("log_ratio"), "of the samples"), (logged[len(logged) // 2 :], "in training"))
    known = [(values, where) for values, where in places if values is not None and len(values) >= 5]
    for values, where in known:
        kl = interval(values, level=0.999, rate=False)
        if kl.high < 0 and kl.mean < -NEGATIVE_KL:
            return "serious", (
                f"the mean log-ratio {where}, which estimates the KL, is {number(kl.mean)} nats a response "
                f"({number(kl.low)} to {number(kl.high)} at 99.9 %)"
            )
    return None if known else UNSEEN


@detector(
    "reference mismatch",
    explanation="The policy that training starts from is not the reference that it is held to: KL is charged from the "
    "first step for a distance that nobody chose.",
    looks_at="`log_ratio` of the baseline's samples, `chosen_score` and `rejected_score` of its held-out pairs; the "
    "metric `kl` of the first line, where that comes before the second rollout",
    threshold=f"mean |log-ratio| above {MISMATCH_PER_TOKEN:g} nats a token: it is 0 for equal weights, and rounding in "
    "16 bits stays below",
    advice="Let the reference be a frozen copy of the very adapter that training starts from: with all adapters "
    "switched off, the reference of a policy that starts from SFT is the base model.",
)
def reference_mismatch(evidence: Evidence) -> Observed:
    """KL above zero before the first step."""
    known = _starting_ratios(evidence)
    for ratios, tokens, where in known:
        mean = float(np.abs(ratios).mean())
        if mean > MISMATCH_PER_TOKEN * tokens:
            return "serious", f"before the first step, mean |log π/π_ref| is {number(mean)} nats a response ({where})"
    return None if known else UNSEEN


@detector(
    "mode collapse",
    explanation="The policy has lost the variety of its answers: it is nearly certain of each next token, or says the "
    "same whatever it is asked.",
    looks_at="`entropy` and `response` of the samples; without `entropy`, the metric of that name",
    threshold=f"beyond chance: entropy down to {ENTROPY_LEFT:.0%} of what it was, or {SAME_ANSWERS:.0%} more prompts "
    f"whose response ({FEW_WORDS} words or more) another prompt gets too, or distinct-2 (both policies' answers cut to "
    f"the same length) down to {DISTINCT_LEFT:.0%}; any sharper reward costs some entropy, so smaller losses are no "
    f"symptom; serious below {ENTROPY_GONE:.0%} of the entropy or where half of the answers are shared",
    advice="Raise the KL coefficient (β), lower the learning rate or the number of steps; check that the reward tells "
    "responses to different prompts apart.",
)
def mode_collapse(evidence: Evidence) -> Observed:
    """Entropy or distinct texts are gone."""
    told, serious = [], False
    entropy = sample_shift(evidence, "entropy") or training_shift(evidence, "entropy")
    if entropy and entropy.before > 0 and entropy.fell((1 - ENTROPY_LEFT) * entropy.before):
        told.append(f"entropy went {entropy} nats a token")
        serious = entropy.after < ENTROPY_GONE * entropy.before
    shared = sample_shift(evidence, _shared_answers)
    if shared and shared.rose(SAME_ANSWERS):
        told.append(f"the share of answers that several prompts get went {shared}")
        serious = serious or shared.after >= 0.5
    distinct = _distinct_shift(evidence)
    if distinct and distinct.fell((1 - DISTINCT_LEFT) * distinct.before):
        told.append(f"distinct-2 at equal length went {distinct}")
    if told:
        return "serious" if serious else "warning", "; ".join(told)
    return None if entropy or shared or distinct else UNSEEN


@detector(
    "entropy blow-up",
    explanation="The policy has become less certain than the one it started from: its text drifts towards noise.",
    looks_at="`entropy` of the samples; without it, the metric of that name",
    threshold=f"beyond chance, {ENTROPY_GROWTH:g} times what it was and {ENTROPY_RISE:g} nats a token above it: "
    "learning from preferences sharpens a policy, or leaves it about as it was",
    advice="Lower the learning rate; switch off entropy bonuses; look for negative advantages that push every token "
    "down, as pairs with two bad responses do.",
)
def entropy_blow_up(evidence: Evidence) -> Observed:
    """Entropy far above that of the starting policy."""
    entropy = sample_shift(evidence, "entropy") or training_shift(evidence, "entropy")
    if entropy is None:
        return UNSEEN
    if not entropy.rose(max(ENTROPY_RISE, (ENTROPY_GROWTH - 1) * entropy.before)):
        return None
    return "warning", f"entropy went {entropy} nats a token"


@detector(
    "repetition",
    explanation="Responses repeat themselves: the reward pays for each occurrence, or the policy fell into loops.",
    looks_at="`response` of the samples: the share of its pairs of neighbouring words that stood in it before",
    threshold=f"up beyond chance and by {REPEATED:.0%}; serious where half of a response is repetition",
    advice="Raise the KL coefficient (β); subtract a price for repeated n-grams from the reward, or show the reward "
    "model repetitive responses that lose.",
)
def repetition(evidence: Evidence) -> Observed:
    """More repeated bigrams than the starting policy has."""
    repeated = sample_shift(evidence, _repeated_bigrams)
    if repeated is None:
        return UNSEEN
    if not repeated.rose(REPEATED):
        return None
    severity: Severity = "serious" if repeated.after >= 0.5 else "warning"
    return severity, f"the share of a response's word pairs that stood in it before went {repeated}"


@detector(
    "missing end tokens",
    explanation="The policy no longer ends its responses: they run into the length limit, and are judged cut off.",
    looks_at="`ended` of the samples; without a baseline, the metric `ended`",
    threshold=f"the share of responses that end fell beyond chance and by {ENDED_LOST:.0%}",
    advice="Set missing_end_penalty or missing_end_score; check that the data's responses carry the end token that the "
    "sampler stops at; raise the length limit if good answers need more room.",
)
def missing_end_tokens(evidence: Evidence) -> Observed:
    """Fewer responses end than before."""
    ended = sample_shift(evidence, "ended") or training_shift(evidence, "ended")
    if ended is None:
        return UNSEEN
    if not ended.fell(ENDED_LOST):
        return None
    return "serious" if ended.after < 0.5 else "warning", f"the share of responses that end went {ended}"


# ---- quantities --------------------------------------------------------------------------------------


def _divergences(evidence: Evidence) -> list[tuple[Array, Array, str]]:
    """Return KLs and lengths of responses, and where they were measured: after training, and late in it."""
    found = []
    length = evidence.sampled("length")
    kl = kl_to_reference([evidence.records.samples]) if evidence.records else None
    if kl is not None and length is not None:
        found.append((kl[0], length, "samples"))
    logged, lengths = evidence.series("kl"), evidence.series("response_length")
    late = len(logged) // 4
    if late > 1 and len(lengths) == len(logged):
        found.append((logged[-late:], lengths[-late:], "end of training"))
    return found


def _starting_ratios(evidence: Evidence) -> list[tuple[Array, float, str]]:
    """Return log-ratios of the starting policy, tokens a response, and where they were measured."""
    found = []
    if evidence.baseline is not None:
        rows = evidence.baseline.samples
        ratios, lengths = column_of(rows, "log_ratio"), column_of(rows, "length")
        if ratios is not None and lengths is not None:
            found.append((ratios, float(lengths.mean()), "samples"))
            for name in ("chosen_score", "rejected_score"):
                scores = column_of(evidence.baseline.preferences, name)
                if scores is not None:
                    found.append((scores, float(lengths.mean()), "held-out pairs"))
    kl, lengths = evidence.series("kl"), evidence.series("response_length")
    if len(kl) and len(lengths) and evidence.metrics[0].get("step", 0) <= _first_rollout(evidence):
        found.append((kl[:1], float(lengths[0]), "first line of metrics"))
    return found


def _first_rollout(evidence: Evidence) -> int:
    """Return the last optimiser step at which only the starting policy's rollout has been seen."""
    settings = evidence.settings
    epochs, prompts, batch = (settings.get(x) for x in ("rollout_epochs", "rollout_prompts", "train_batch_size"))
    if batch is None and (micro := settings.get("per_device_train_batch_size")) is not None:
        batch = micro * (settings.get("gradient_accumulation_steps") or 1)
    if epochs is None or prompts is None or batch is None:
        return 1
    return max(1, int(epochs * prompts // batch))


def _texts(rows: Sequence[Row]) -> list[list[str]] | None:
    """Return each response as words; None unless every row has one."""
    texts = [row.get("response") for row in rows]
    if not texts or not all(isinstance(text, str) for text in texts):
        return None
    return [WORDS.findall(str(text).casefold()) for text in texts]


def _bigrams(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(words))


def _repeated_bigrams(rows: Sequence[Row]) -> Array | None:
    """Return ``[N]``: the share of a response's bigrams that stood in it before; 0 for short ones."""
    texts = _texts(rows)
    if texts is None:
        return None
    found = [_bigrams(words) for words in texts]
    return np.array([1 - len(set(pairs)) / len(pairs) if pairs else 0.0 for pairs in found])


def _shared_answers(rows: Sequence[Row]) -> Array | None:
    """Return ``[N]``: 1 where another prompt gets the very same response; 0 for a few words, which many may share."""
    texts = _texts(rows)
    if texts is None:
        return None
    counts = Counter(map(tuple, texts))
    return np.array([float(len(words) >= FEW_WORDS and counts[tuple(words)] > 1) for words in texts])


def _distinct_shift(evidence: Evidence) -> Shift | None:
    """Return the change of distinct-2, answers of both policies to a prompt cut to the length of the shorter.

    Distinct-2 is the mean over all bigrams of 1 / how often the bigram occurs; taken response by response, that
    is a value for each prompt.
    """
    pair = paired_samples(evidence)
    texts = [_texts(rows) for rows in pair] if pair else [None, None]
    if texts[0] is None or texts[1] is None:
        return None
    cut = [
        [_bigrams(words[: min(len(one), len(other))]) for words in (one, other)]
        for one, other in zip(texts[0], texts[1], strict=True)
    ]
    kept = [both for both in cut if both[0]]
    if len(kept) < 2:
        return None
    before, after = (_distinctness([both[side] for both in kept]) for side in (0, 1))
    return Shift(float(before.mean()), float(after.mean()), interval(after - before, rate=False))


def _distinctness(found: Sequence[Sequence[Hashable]]) -> Array:
    counts = Counter(gram for grams in found for gram in grams)
    return np.array([np.mean([1 / counts[gram] for gram in grams]) for grams in found])
