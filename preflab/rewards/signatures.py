"""How a reward function wants to be called, read off the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.method.plugins import place_of
from preflab.rewards.questions import Question

ONE = ("prompt", "response", "messages")
MANY = ("prompts", "responses", "completions", "messages")
RESPONSES = ("response", "responses", "completions")

ADVICE = (
    "a reward takes (prompt, response), or (prompts, responses) or TRL's (prompts, completions) as lists, by these "
    "names; other parameters are columns of the data"
)


class Signature(NamedTuple):
    """How a reward function is called.

    Attributes:
        texts: the names among `ONE` or `MANY` that it takes; empty where Python cannot tell, and it is called by place.
        columns: columns of the data that it must be given.
        optional: columns that have a default.
        every: whether it takes all other columns too (``**columns``).
        batched: whether it takes lists, and returns one.
        awaited: whether it is ``async``.
    """

    texts: frozenset[str]
    columns: frozenset[str]
    optional: frozenset[str]
    every: bool
    batched: bool
    awaited: bool

    def arguments(self, question: Question) -> dict[str, Any]:
        """Return the arguments of a call for one response."""
        messages = question.asked.messages or [{"role": "user", "content": question.prompt}]
        texts = {"prompt": question.prompt, "response": question.response, "messages": list(messages)}
        return {**self._given(question), **self._taken(texts)}

    def batch_arguments(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Return the arguments of one call for many responses, each a list.

        Where the prompts are messages and the responses go by TRL's name, both are messages, as TRL gives them.
        """
        each = [self._given(question) for question in questions]
        names = dict.fromkeys(name for given in each for name in given)
        prompts: list[Any] = [question.prompt for question in questions]
        texts: list[Any] = [question.response for question in questions]
        messages = [list(q.asked.messages or [{"role": "user", "content": q.prompt}]) for q in questions]
        completions = texts
        if "completions" in self.texts and all(question.asked.messages is not None for question in questions):
            prompts, completions = messages, [[{"role": "assistant", "content": text}] for text in texts]
        lists = {"prompts": prompts, "responses": texts, "completions": completions, "messages": messages}
        return {**{name: [given.get(name) for given in each] for name in names}, **self._taken(lists)}

    def _taken(self, texts: dict[str, Any]) -> dict[str, Any]:
        """Return those of the texts that the function names; one that takes everything gets the prompt too."""
        more = {"prompt", "prompts"} if self.every else set()
        return {name: text for name, text in texts.items() if name in self.texts | more}

    def _given(self, question: Question) -> dict[str, Any]:
        """Return the columns of a prompt that the function takes."""
        known = self.columns | self.optional
        return {name: value for name, value in question.asked.columns.items() if self.every or name in known}


def read_signature(function: Any, what: str) -> Signature:
    """Return how a function wants to be called.

    Args:
        function: what a person named as a reward.
        what: how messages call it.

    Raises:
        UserError: if it is no function, or takes no response.
    """
    if inspect.isclass(function):
        raise UserError(f"{what} is no function but a class; {ADVICE}")
    if not callable(function):
        raise UserError(f"{what} is no function but {shown(function)}; {ADVICE}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UserError(f"{what}{place_of(function)} yields; it must return its value")
    awaited = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions do not tell their parameters; calling them will
        return Signature(frozenset(), frozenset(), frozenset(), False, False, awaited)
    named = {p.name: p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    batched = not {"prompts", "responses", "completions"}.isdisjoint(named)
    texts = frozenset(named) & frozenset(MANY if batched else ONE)
    mixed = batched and not {"prompt", "response"}.isdisjoint(named)
    unnamed = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if len(texts.intersection(RESPONSES)) != 1 or mixed or unnamed:
        raise UserError(f"{what}{place_of(function)} has the arguments {signature}; {ADVICE}")
    others = {name: parameter for name, parameter in named.items() if name not in texts}
    columns = frozenset(name for name, parameter in others.items() if parameter.default is parameter.empty)
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    return Signature(texts, columns, frozenset(others) - columns, every, batched, awaited)
