"""``--reward``: one reward or a weighted sum of several, taken apart."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from preflab.errors import UserError
from preflab.errors.terminal import shown

ENDPOINT, MODEL = "endpoint", "model"
WORDS = (ENDPOINT, MODEL)


class Part(NamedTuple):
    """One addend of the reward.

    Attributes:
        source: ``endpoint``, ``model`` (the reward model), or the place of a function.
        weight: what it is multiplied by.
        name: for metrics: the word, or the function's name.
    """

    source: str
    weight: float
    name: str

    @property
    def is_function(self) -> bool:
        """Whether it is a Python function."""
        return self.source not in WORDS


def parse_reward(text: str | None) -> tuple[Part, ...]:
    """Return the parts of ``place``, ``endpoint``, ``model``, or of several with weights: ``a=0.7,b=0.3``.

    Raises:
        UserError: for a part without a name, named twice, or with a weight that is no number or zero.
    """
    sources, weights = [], []
    for item in (text or "").split(","):
        source, equals, weight = item.strip().rpartition("=")
        if not equals:
            source, weight = weight, "1"
        if text is not None:
            sources.append(_checked_source(source.strip(), text))
            weights.append(_weight(weight, source))
    if twice := [source for source, count in Counter(sources).items() if count > 1]:
        raise UserError(f"--reward names {twice[0]!r} twice; add its weights up")
    short = [source.rpartition(":")[2] for source in sources]
    names = [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]
    return tuple(map(Part, sources, weights, names))


def _checked_source(source: str, text: str) -> str:
    where, colon, name = source.rpartition(":")
    if source in WORDS or (colon and where and name):
        return source
    raise UserError(
        f"--reward {shown(text)}: {shown(source)} must be package.module:function, file.py:function, 'endpoint' or "
        "'model'; several are written as a=0.7,b=0.3"
    )


def _weight(text: str, source: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise UserError(f"--reward: the weight of {shown(source)} is {shown(text)}; it must be a number other than 0")
    return weight
