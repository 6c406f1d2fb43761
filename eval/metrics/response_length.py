"""How long a model's responses are, and how many of them came to an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics import base
from preflab.eval.metrics.measures import PERCENT, Measure, Unit, one


def per_prompt(length: ArrayLike) -> NDArray[np.float64]:
    """Return ``[N]``: the length of each response in tokens.

    Raises:
        ValueError: if a length is negative or not finite.
    """
    lengths = base.vectors(length=length)[0]
    if (lengths < 0).any():
        row = int(np.flatnonzero(lengths < 0)[0])
        raise ValueError(f"length[{row}] is {lengths[row]}; a length cannot be negative")
    return lengths


def ended(ended: Sequence[bool | None]) -> NDArray[np.float64]:
    """Return ``[N]``: 1 where a response ended by itself, else 0.

    Raises:
        ValueError: if it is not said of one.
    """
    rows = list(ended)
    if None in rows:
        raise ValueError(f"ended[{rows.index(None)}] is missing; each response needs true or false")
    return base.vectors(ended=np.array(rows, dtype=np.float64))[0]


LENGTH = Measure(
    "response_length",
    "tokens, the end token included",
    per_prompt,
    ("length",),
    Unit("tokens", one),
    heading="length",
    shown=("table", "ranking"),
)


class ResponseLength(base.PromptMetric):
    """Mean response length in tokens, the end token included, and the share of responses that ended.

    Neither short nor long is better by itself, but a method that wins by length alone has learned the
    length bias of its reward. Responses cut at the limit count with the length they reached.
    """

    of = "samples"
    order = 80
    version = "1.0.0"
    inputs: ClassVar = {
        "length": ("float64", "tokens of each response, the end token included"),
        "ended": ("bool", "whether each response ended by itself, not at the length limit"),
    }
    measures: ClassVar = (
        LENGTH,
        Measure(
            "ended",
            "share of responses that ended by themselves, not at the length limit",
            ended,
            ("ended",),
            PERCENT,
            heading="ended",
            shown=("generations",),
            rate=True,
        ),
    )
    source = """@article{singhal2023length,
  title={A Long Way to Go: Investigating Length Correlations in RLHF},
  author={Singhal, Prasann and Goyal, Tanya and Xu, Jiacheng and Durrett, Greg},
  journal={arXiv:2310.03716}, year={2023}}"""
