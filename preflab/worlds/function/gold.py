"""A gold reward by its place: imported, tried out, and wrapped for whole lists of texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from preflab.disk.digests import digest
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.method.plugins import arguments_of, blamed, place_of, written_in
from preflab.method.registry import import_object
from preflab.worlds import GoldReward

RewardFunction = Callable[[str, str], float]

LARGEST = 1e30
"""What a reward is at most: well within float32, in which methods see it."""


def gold_reward(place: str) -> GoldReward:
    """Import a reward function, try it, and return it for whole lists of texts.

    White space around a response is not part of it, here as in the evaluation.

    Args:
        place: ``package.module:function`` or ``path/to/file.py:function``.

    Raises:
        UserError: if it cannot be imported, is not a function of prompt and response, fails, gives
            something other than a finite number, or two numbers for the same texts.
    """
    function = _import_reward(place)

    def gold(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [_judge(function, place, p, r.strip()) for p, r in zip(prompts, responses, strict=True)]

    # Policies may say nothing at all, so the empty response is tried too.
    examples = ("Once upon a time", "Once upon a time"), ("there was a happy dog. He had a big ball.", "")
    if gold(*examples) != gold(*examples):
        raise UserError(
            f"reward {place!r} gives two different values for the same texts; make it deterministic, or labels and "
            "evaluation could not be repeated"
        )
    return gold


def _import_reward(place: str) -> RewardFunction:
    with blamed(f"reward {place!r} cannot be imported:"):
        function = import_object(place)
    if inspect.isclass(function):
        raise UserError(
            f"reward {place!r} is no function but a class; it must be one: reward(prompt, response) -> float"
        )
    problem = arguments_of(function, "prompt", "response")
    if problem:
        raise UserError(f"reward {place!r}{place_of(function)} {problem}; it must take two texts, (prompt, response)")
    return function  # type: ignore[no-any-return]


def _judge(function: RewardFunction, place: str, prompt: str, response: str) -> float:
    def texts() -> str:
        return f", for prompt {shown(prompt)} and response {shown(response)}"

    with blamed(f"reward {place!r} raised", written_in(function), end=texts):
        value = function(prompt, response)
    number = _number(value)
    if number is not None and abs(number) <= LARGEST:
        return number
    what = f"{shown(value)} ({type(value).__name__}), not a number"
    if number is not None:
        what = f"{number}; it must be finite, {LARGEST:g} at most"
    raise UserError(f"reward {place!r}{place_of(function)} returned {what}{texts()}")


def _number(value: Any) -> float | None:
    """Return one number as a float: Python's, NumPy's, or a tensor of one element; None for anything else."""
    # float() would read these as the text of a number.
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return None
    try:
        return float(value)
    except Exception:  # of a stranger's own `__float__`, or torch's for several elements
        return None


def source_of(place: str) -> str:
    """Return a hash of the function's source where Python can show it, else its place."""
    function = _import_reward(place)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = f"{place} {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return digest(source, 16)
