"""How much a response says over and over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import Measure, Unit, three
from preflab.eval.metrics.words import ngrams, words

LONGEST_UNIT = 8


def per_prompt(response: Sequence[str], n: int = 4) -> NDArray[np.float64]:
    """Return ``[N]``: the share of each response's n-grams that occur earlier in it; 0 below n words.

    Raises:
        ValueError: if there are no responses, or one is not text.
    """
    rows = [ngrams(words(text), n) for text in base.texts(response=response)]
    return np.array([1.0 - len(set(row)) / len(row) if row else 0.0 for row in rows])


def longest_run(response: Sequence[str]) -> NDArray[np.float64]:
    """Return ``[N]``: the share of each response that is its longest run of one unit said back to back.

    A unit is 1 to 8 words, and a run at least three of it: "so so so good" has a run of 3/4. A stretch of words
    repeats a unit of length p as long as each word equals the one p before it.

    Raises:
        ValueError: if there are no responses, or one is not text.
    """
    texts = [words(text) for text in base.texts(response=response)]
    return np.array(
        [max(_run(text, unit) for unit in range(1, LONGEST_UNIT + 1)) / max(len(text), 1) for text in texts]
    )


def _run(text: Sequence[str], unit: int) -> int:
    """Return the length of the longest stretch of `text` that repeats a unit of so many words, or 0."""
    longest = same = 0
    for before, now in zip(text, text[unit:], strict=False):
        same = same + 1 if before == now else 0
        longest = max(longest, same)
    return longest + unit if longest >= 2 * unit else 0


class Repetition(base.PromptMetric):
    """Share of a response's 4-grams (of words) that occurred before in the same response; mean over responses.

    Good text has a few per cent at most. The longest run (the share of a response that is one unit of 1 to 8
    words said three times or more, back to back) tells a model that is caught in a loop from one that returns
    to its topic.
    """

    of = "samples"
    order = 70
    version = "1.0.1"
    inputs = base.RESPONSES
    measures: ClassVar = (
        Measure(
            "repetition",
            "share of a response's 4-grams that occur earlier in it",
            per_prompt,
            ("response",),
            Unit("share", three),
            higher_is_better=False,
            heading="repetition",
            shown=("generations",),
            bounds=(0.0, 1.0),
        ),
        Measure(
            "longest_run",
            "share of a response that is one unit said three times or more, back to back",
            longest_run,
            ("response",),
            Unit("share", three),
            higher_is_better=False,
            bounds=(0.0, 1.0),
        ),
    )
    source = """@article{welleck2019neural,
  title={Neural Text Generation with Unlikelihood Training},
  author={Welleck, Sean and Kulikov, Ilia and Roller, Stephen and others},
  journal={arXiv:1908.04319}, year={2019}}"""
