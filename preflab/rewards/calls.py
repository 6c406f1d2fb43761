"""A reward that is a Python function: imported, called as its parameters say, and held to finite numbers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from preflab.disk.digests import digest
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.method.plugins import blamed, place_of, written_in
from preflab.method.registry import import_object
from preflab.rewards.questions import Question
from preflab.rewards.signatures import Signature, read_signature

LARGEST = 1e30
"""What a reward is at most: well within float32, in which methods see it."""

CALLS_AT_ONCE = 64
"""Calls of an ``async`` function under way at a time, where nothing else is said."""


def import_reward(place: str) -> tuple[Callable[..., Any], Signature]:
    """Import a reward function, and read how it wants to be called.

    Args:
        place: ``package.module:function`` or ``path/to/file.py:function``.

    Raises:
        UserError: if it cannot be imported, or is no function that takes a response.
    """
    with blamed(f"reward {place!r} cannot be imported:"):
        function = import_object(place)
    return function, read_signature(function, f"reward {place!r}")


def source_of(function: Callable[..., Any], place: str) -> str:
    """Return a hash of the file that a function is written in where Python can show it, else of its place.

    The whole file counts: what the function calls there decides as much as it does.
    """
    try:
        content = Path(str(inspect.getsourcefile(inspect.unwrap(function)))).read_bytes()
    except (OSError, TypeError):
        return digest(place, 16)
    return digest(f"{place.rpartition(':')[2]}\n".encode() + content, 16)


class FunctionCaller:
    """Calls a reward function in this process.

    Args:
        place: of the function.
        at_once: calls of an ``async`` function under way at a time.
        timeout: seconds that one of these may take; None: as long as it likes.

    Raises:
        UserError: as `import_reward` does.
    """

    def __init__(self, place: str, at_once: int = CALLS_AT_ONCE, timeout: float | None = None) -> None:
        self.place, self.at_once, self.timeout = place, at_once, timeout
        self.function, self.signature = import_reward(place)

    def __call__(self, questions: Sequence[Question]) -> list[float | None]:
        """Return the function's rewards; None for calls that were not over in time, where there is a time limit.

        Raises:
            UserError: if it fails, or gives something other than finite numbers.
        """
        if not questions:
            return []
        calls = [list(questions)] if self.signature.batched else [[question] for question in questions]
        if not self.signature.awaited:
            return [value for call in calls for value in self._checked(call, partial(self._call, call))]
        # In a thread of its own: this one may run an event loop already, as notebooks do.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self._gather(calls))).result()

    def _call(self, call: Sequence[Question]) -> Any:
        if not self.signature.texts:
            return self.function(call[0].prompt, call[0].response)
        if self.signature.batched:
            return self.function(**self.signature.batch_arguments(call))
        return self.function(**self.signature.arguments(call[0]))

    async def _gather(self, calls: Sequence[Sequence[Question]]) -> list[float | None]:
        turn = asyncio.Semaphore(self.at_once)
        found = await asyncio.gather(*(self._awaited(call, turn) for call in calls))
        return [value for values in found for value in values]

    async def _awaited(self, call: Sequence[Question], turn: asyncio.Semaphore) -> Sequence[float | None]:
        async with turn:
            coroutine: Coroutine[Any, Any, Any] = self._call(call)
            task = asyncio.ensure_future(coroutine)
            await asyncio.wait({task}, timeout=self.timeout)
            if not task.done():
                task.cancel()
                return [None] * len(call)
        return self._checked(call, task.result)

    def _checked(self, call: Sequence[Question], result: Callable[[], Any]) -> list[float]:
        """Return the numbers that a call gave, one for each of its questions."""

        def texts() -> str:
            return f", for {described(call)}"

        with blamed(f"reward {self.place!r} raised", written_in(self.function), end=texts):
            value = result()
            values = list(value) if self.signature.batched else [value]
        if len(values) != len(call):
            what = f"{len(values)} numbers for {len(call)} responses"
            raise UserError(f"reward {self.place!r}{place_of(self.function)} returned {what}")
        return [self._number(one, question) for one, question in zip(values, call, strict=True)]

    def _number(self, value: Any, question: Question) -> float:
        number = as_number(value)
        if number is not None and abs(number) <= LARGEST:
            return number
        what = f"{shown(value)} ({type(value).__name__}), not a number"
        if number is not None:
            what = f"{number}; it must be finite, {LARGEST:g} at most"
        raise UserError(f"reward {self.place!r}{place_of(self.function)} returned {what}, for {described([question])}")


def described(questions: Sequence[Question]) -> str:
    """Return which texts a call was about, shortened."""
    first = f"prompt {shown(questions[0].prompt)} and response {shown(questions[0].response)}"
    return first if len(questions) == 1 else f"{len(questions)} responses, of which the first: {first}"


def as_number(value: Any) -> float | None:
    """Return one number as a float: Python's, NumPy's, or a tensor of one element; None for anything else."""
    # float() would read these as the text of a number.
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return None
    try:
        return float(value)
    except Exception:  # of a stranger's own `__float__`, or torch's for several elements
        return None
