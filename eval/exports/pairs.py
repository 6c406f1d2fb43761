"""Preference pairs as nobody's template has written them yet, of any layout that preflab reads. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from preflab.data.answers import Parted
from preflab.data.columns import unknown_layout
from preflab.data.findings import BadRows
from preflab.data.layouts import beside, layout_of
from preflab.data.messages import ASSISTANT, CALLS, SYSTEM, USER, Message
from preflab.data.ranking import check_texts, ordered, parted_row, strength_of
from preflab.data.reading import UNREADABLE, Row, RowError
from preflab.data.turns import as_messages
from preflab.errors import UserError

logger = logging.getLogger(__name__)

UNDECIDED = "neither response is preferred (preference 1/2)"
SINGLE = "one response, which is no pair"
NO_TOOLS = "tools, or calls of them, which are not exported"
NOT_IN_TURN = "the dialogue does not go from user to assistant in turn, beginning and ending with the user"
HAS_SYSTEM = "a system prompt, for which RewardBench has no place (--model writes it into the prompt)"


class Pair(NamedTuple):
    """A prompt and two responses, all text or all messages.

    Attributes:
        number: its row's in the file.
        prompt: text, or messages.
        chosen: text, or an assistant's message.
        rejected: the same.
        subset: what its row says it is of; None where that is nothing.
    """

    number: int
    prompt: str | list[Message]
    chosen: Any
    rejected: Any
    subset: str | None = None


def pairs_of(rows: Iterable[tuple[int, Row]], source: str = "the data") -> list[Pair]:
    """Return the pairs of numbered raw rows; rows without one are left out, counted and said.

    Raises:
        UserError: if none is left.
    """
    found, bad = [], BadRows()
    for number, row in rows:
        try:
            found.append(_pair(number, row))
        except RowError as error:
            bad.add(number, error)
    return usable(found, bad, source)


def usable(found: list[Any], bad: BadRows, source: str) -> list[Any]:
    """Return what was found, having said what was left out.

    Raises:
        UserError: if that is everything.
    """
    if not found:
        raise UserError(f"{source} has no pair to export: {bad.summary() if bad.total else 'it is empty'}")
    if bad.total:
        logger.warning("%s: %d of %d rows are left out: %s", source, bad.total, bad.total + len(found), bad.summary())
    return found


def in_turns(pair: Pair) -> tuple[list[Message], str, str]:
    """Return a pair as a dialogue of user and assistant, and two answers; text is one user's message, or its turns.

    Raises:
        RowError: if it is no such dialogue.
    """
    prompt, (chosen, rejected) = pair.prompt, (pair.chosen, pair.rejected)
    if isinstance(prompt, str):
        found = as_messages(Parted(prompt, [chosen, rejected]), ())
        prompt, (chosen, rejected) = list(found.prompt), found.answers  # type: ignore[arg-type]
    if any(turn["role"] in (SYSTEM, "developer") for turn in prompt):
        raise RowError(HAS_SYSTEM)
    roles = [turn["role"] for turn in prompt]
    if roles[0] != USER or roles[-1] != USER or any({*two} != {USER, ASSISTANT} for two in pairwise(roles)):
        raise RowError(NOT_IN_TURN)
    return prompt, chosen["content"], rejected["content"]


def _pair(number: int, row: Row) -> Pair:
    """Return a raw row as a pair, or raise `RowError`."""
    if UNREADABLE in row:
        raise RowError(row[UNREADABLE])
    layout = layout_of(row)
    if layout is None:
        raise RowError(unknown_layout(row))
    fields, extra = layout.read(row), beside(row)
    found, ranks = parted_row(fields, row)
    check_texts(found, ranks)
    if len(found.answers) < 2:
        raise RowError(SINGLE)
    if "tools" in extra or any(name in turn for turn in _turns(found) for name in CALLS):
        raise RowError(NO_TOOLS)
    strength = strength_of(extra)
    if strength.get("preference") == 0.5:
        raise RowError(UNDECIDED)
    best = ordered(found.answers, ranks, strength)
    subset = extra.get("subset", extra.get("source"))
    prompt = _with_system(found.prompt, extra.get(SYSTEM))
    return Pair(number, prompt, best["chosen"], best["rejected"], None if subset is None else str(subset))


def _turns(found: Parted) -> Iterator[Message]:
    if not isinstance(found.prompt, str):
        yield from (*found.prompt, *found.answers)


def _with_system(prompt: str | list[Message], system: Any) -> str | list[Message]:
    """Return a prompt with what the row's column of system prompts says in front."""
    if system is None:
        return prompt
    if not isinstance(system, str):
        raise RowError("system is not text", system)
    if isinstance(prompt, str):
        return prompt if prompt.lstrip().startswith(system.strip()) else f"{system.strip()}\n\n{prompt.lstrip()}"
    if prompt[0]["role"] != SYSTEM:
        return [{"role": SYSTEM, "content": system}, *prompt]
    if prompt[0]["content"].strip() != system.strip():
        raise RowError("the system column and the system message of the prompt differ")
    return prompt
