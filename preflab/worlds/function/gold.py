"""A gold reward by its place: imported, tried out, and wrapped for whole lists of texts."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence

from preflab.errors import UserError
from preflab.registry import import_object
from preflab.worlds import GoldReward

RewardFunction = Callable[[str, str], float]


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
    try:
        function = import_object(place)
    except UserError:
        raise
    except Exception as error:  # the user's own module may raise anything
        raise UserError(f"reward {place!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function) or inspect.isclass(function):
        raise UserError(f"reward {place!r} is no function; it must be one: reward(prompt, response) -> float")
    try:
        inspect.signature(function).bind("prompt", "response")
    except TypeError:
        raise UserError(
            f"reward {place!r} has the arguments {inspect.signature(function)}; it must take two texts, "
            "(prompt, response)"
        ) from None
    except ValueError:  # some built-in functions do not tell their arguments; calling them will
        pass
    return function  # type: ignore[no-any-return]


def _judge(function: RewardFunction, place: str, prompt: str, response: str) -> float:
    def refuse(what: str) -> UserError:
        return UserError(f"reward {place!r} {what}, for prompt {_short(prompt)} and response {_short(response)}")

    try:
        value = function(prompt, response)
    except Exception as error:
        raise refuse(f"raised {type(error).__name__}: {error}") from error
    if isinstance(value, (str, bytes)):
        raise refuse(f"returned {_short(repr(value))}, not a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise refuse(f"returned {_short(repr(value))}, not a number") from None
    if not math.isfinite(number):
        raise refuse(f"returned {number}; it must be finite")
    return number


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def source_of(place: str) -> str:
    """Return a hash of the function's source where Python can show it, else its place."""
    function = _import_reward(place)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = f"{place} {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return hashlib.sha256(source.encode()).hexdigest()[:16]
