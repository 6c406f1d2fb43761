"""What a policy's sampled responses are like: the figures of ``comparison.json`` that need no baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import base, distinct_n, kl_to_reference, repetition, self_similarity
from eval.records.columns import Rows, check_aligned, column
from eval.statistics import interval

Array = NDArray[np.float64]

KEYS: dict[str, str] = {
    "kl": "KL to the reference, nats per response: mean of log π/π_ref (k1), signed",
    "kl_k3": "the same by k3; null where it is not finite",
    "kl_exact": "the same, exact over the vocabulary at each position",
    "entropy": "of the next token, nats per token",
    "distinct_1": "distinct words over words, all prompts together",
    "distinct_2": "distinct over all pairs of neighbouring words, all prompts together",
    "distinct_3": "distinct over all triples of neighbouring words, all prompts together",
    "repetition": "share of a response's 4-grams that occur earlier in it",
    "longest_run": "share of a response that is one unit said three times or more, back to back",
    "self_similarity": "mean cosine similarity of the responses to two prompts",
    "duplicates": "share of responses that another prompt got too, word for word",
    "response_length": "tokens, the end token included",
    "ended": "share of responses that ended by themselves, not at the length limit",
    "proxy_reward": "of the reward model that methods are trained against",
    "gold_reward": "of the judge",
}
"""The keys of a summary, each an `Estimate` or null."""

# Name of the key, column of the records, whether it is a rate.
COLUMNS = (
    ("kl", "log_ratio", False),
    ("kl_exact", "kl", False),
    ("entropy", "entropy", False),
    ("response_length", "length", False),
    ("ended", "ended", True),
    ("proxy_reward", "proxy", False),
    ("gold_reward", "gold", False),
)
# Name of the key, values per prompt of one seed's texts, whether it is a rate, fewest texts.
TEXTS: tuple[tuple[str, Callable[[Sequence[str]], Array], bool, int], ...] = (
    ("distinct_1", lambda texts: distinct_n.per_prompt(texts, 1), False, 1),
    ("distinct_2", lambda texts: distinct_n.per_prompt(texts, 2), False, 1),
    ("distinct_3", lambda texts: distinct_n.per_prompt(texts, 3), False, 1),
    ("repetition", repetition.per_prompt, False, 1),
    ("longest_run", repetition.longest_run, False, 1),
    ("self_similarity", self_similarity.per_prompt, False, 2),
    ("duplicates", self_similarity.duplicates, True, 2),
)


def summarise_generations(seeds: Sequence[Rows]) -> dict[str, Any]:
    """Return the estimates of one policy's responses over its training seeds, by the names in `KEYS`.

    Args:
        seeds: for each training seed the rows ``prompt, response, length, ended, log_ratio, kl, entropy, gold,
            proxy`` (`eval.harness.evaluate.Records.samples`), the same prompts in the same order. Columns may be absent
            or all null; no rows at all (a reward model) give nothing but nulls.

    Raises:
        UserError: if a value is missing where others are there, or is not finite; with seed and row.
        ValueError: if seeds answered different prompts.
    """
    summary: dict[str, Any] = dict.fromkeys(KEYS)
    if not any(len(rows) for rows in seeds):
        return summary
    check_aligned(seeds, "prompt")
    for name, source, rate in COLUMNS:
        values = column(seeds, source)
        if values is not None:
            summary[name] = interval(values, rate=rate).as_dict()
    log_ratio = column(seeds, "log_ratio")
    if log_ratio is not None:
        k3 = np.stack([kl_to_reference.k3(ratios) for ratios in log_ratio])
        with np.errstate(over="ignore", invalid="ignore"):
            known = np.isfinite(k3.var())  # its square overflows before it does
        if known:
            summary["kl_k3"] = interval(k3, rate=False).as_dict()
    return summary | _texts(seeds)


def _texts(seeds: Sequence[Rows]) -> dict[str, Any]:
    texts = [[row.get("response") for row in rows] for rows in seeds]
    if all(text is None for rows in texts for text in rows):
        return {}
    given = [base.texts(response=rows) for rows in texts]
    found: dict[str, Any] = {}
    for name, values, rate, fewest in TEXTS:
        if len(given[0]) >= fewest:
            estimate = interval(np.stack([values(rows) for rows in given]), rate=rate)
            found[name] = base.within(estimate, 0.0, 1.0).as_dict()
    return found
