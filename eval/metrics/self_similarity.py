"""How alike the responses to different prompts are: mode collapse."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import PERCENT, Measure, Unit, three
from preflab.eval.metrics.words import ngrams, words


def per_prompt(response: Sequence[str]) -> NDArray[np.float64]:
    """Return ``[N]`` values whose mean is the self-similarity and whose spread is its jackknife error over prompts.

    The cosines of all pairs come from the sum of the unit vectors, in time linear in the text.

    Raises:
        ValueError: if there are fewer than two responses, or one is not text.
    """
    rows = [Counter(ngrams(["<start>", *words(text), "<end>"], 2)) for text in base.texts(response=response)]
    n = len(rows)
    if n < 2:
        raise ValueError("response has one text; similarity needs at least two")
    norms = [math.sqrt(sum(count * count for count in row.values())) for row in rows]
    total: defaultdict[Any, float] = defaultdict(float)
    for row, norm in zip(rows, norms, strict=True):
        for gram, count in row.items():
            total[gram] += count / norm
    alike = np.array(
        [
            (sum(count * total[gram] for gram, count in row.items()) / norm - 1.0) / (n - 1)
            for row, norm in zip(rows, norms, strict=True)
        ]
    )  # mean cosine to the others
    whole = float(alike.mean())
    # A response stands in 2/n of all pairs, as either end of them: they go with it.
    without = (n * whole - 2.0 * alike) / (n - 2) if n > 2 else np.full(n, whole)
    return base.linearised(whole, without)


def duplicates(response: Sequence[str]) -> NDArray[np.float64]:
    """Return ``[N]`` values whose mean is the share of responses given to another prompt as well, word for word.

    Case, punctuation and white space count; white space at the ends does not. Where no two responses are alike
    all values are 0, and where all are, 1.

    Raises:
        ValueError: if there are no responses, or one is not text.
    """
    rows = [text.strip() for text in base.texts(response=response)]
    sizes = Counter(rows)
    size = np.array([sizes[text] for text in rows], dtype=np.float64)
    copies = float(np.sum(size > 1))
    lost = np.where(size == 1, 0.0, np.where(size == 2, 2.0, 1.0))
    return base.linearised(copies / len(rows), (copies - lost) / max(len(rows) - 1, 1))


class SelfSimilarity(base.PromptMetric):
    """Mean cosine similarity of the responses to two different prompts, over counts of neighbouring words.

    0: no two responses share a pair of neighbouring words (start and end of the response count as words);
    1: every prompt gets the same response. Unlike distinct-n its expectation does not depend on the number of
    prompts, and unlike self-BLEU it takes time linear in the text. Prompts that ask for like things get like
    responses: compare with the reference policy on the same prompts.
    """

    of = "samples"
    order = 75
    version = "1.0.0"
    inputs = base.RESPONSES
    measures: ClassVar = (
        Measure(
            "self_similarity",
            "mean cosine similarity of the responses to two prompts",
            per_prompt,
            ("response",),
            Unit("cosine", three),
            higher_is_better=False,
            bounds=(0.0, 1.0),
            fewest=2,
        ),
        Measure(
            "duplicates",
            "share of responses that another prompt got too, word for word",
            duplicates,
            ("response",),
            PERCENT,
            higher_is_better=False,
            rate=True,
            bounds=(0.0, 1.0),
            fewest=2,
        ),
    )
    source = """@article{zhu2018texygen,
  title={Texygen: A Benchmarking Platform for Text Generation Models},
  author={Zhu, Yaoming and Lu, Sidi and Zheng, Lei and others},
  journal={arXiv:1802.01886}, year={2018}}"""
