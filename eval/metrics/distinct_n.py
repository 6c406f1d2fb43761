"""How much of what a model says it says only once, over all prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit, three
from preflab.eval.metrics.words import ngrams, words


def per_prompt(response: Sequence[str], n: int = 2) -> NDArray[np.float64]:
    """Return ``[N]`` values whose mean is distinct-n and whose spread is its jackknife error over prompts.

    Args:
        response: one text per prompt.
        n: length of the n-grams, in words.

    Raises:
        ValueError: if there are no responses, or one is not text.
    """
    rows = [Counter(ngrams(words(text), n)) for text in base.texts(response=response)]
    holders = Counter(gram for row in rows for gram in row)
    # Without a response, the n-grams that it alone holds are gone, and all that it says is unsaid.
    own = np.array([sum(holders[gram] == 1 for gram in row) for row in rows], dtype=np.float64)
    said = np.array([row.total() for row in rows], dtype=np.float64)
    whole = len(holders) / max(said.sum(), 1.0)
    return base.linearised(whole, (len(holders) - own) / np.maximum(said.sum() - said, 1.0))


class DistinctN(base.PromptMetric):
    """Distinct n-grams over all n-grams, counted over the responses to all prompts together (n = 1, 2, 3).

    Low values mean that responses are alike, or repeat themselves; 0 that no response is long enough to hold
    an n-gram. The more text, the fewer of its n-grams are new: compare models on the same prompts only, and
    look at the response length beside. See `self_similarity` for a figure that does not depend on the number
    of prompts.
    """

    of = "samples"
    order = 65
    version = "1.0.0"
    inputs = base.RESPONSES
    measures: ClassVar = tuple(
        Measure(
            f"distinct_{n}",
            f"distinct {what}, all prompts together",
            partial(per_prompt, n=n),
            ("response",),
            Unit("share", three),
            higher_is_better=True,
            heading=f"distinct-{n}",
            shown=("generations",) if n == 2 else (),
            bounds=(0.0, 1.0),
        )
        for n, what in (
            (1, "words over words"),
            (2, "over all pairs of neighbouring words"),
            (3, "over all triples of neighbouring words"),
        )
    )
    main = 1
    source = """@article{li2016diversity,
  title={A Diversity-Promoting Objective Function for Neural Conversation Models},
  author={Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
  journal={arXiv:1510.03055}, year={2016}}"""
