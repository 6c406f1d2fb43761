"""Dialogues that are too long, shortened from their beginning, as messages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

from preflab.data.messages import SYSTEM, USER, Message

Lost = Literal["nothing", "turns", "words"]


def last_messages(
    prompt: Sequence[Message], fits: Callable[[list[Message]], bool], *, words: bool = False
) -> tuple[list[Message], Lost]:
    """Return the last turns that fit, from a user's on, behind what the system says; and what was lost for it.

    Args:
        prompt: a dialogue that does not fit.
        fits: whether one does; whatever begins later than one that fits must fit too.
        words: whether a last turn that alone is too long loses its beginning; else the dialogue stays as it is.
    """
    opening = next((i for i, m in enumerate(prompt) if m["role"] not in (SYSTEM, "developer")), 0)
    head, turns = [*prompt[:opening]], [*prompt[opening:]]
    starts = [i for i, message in enumerate(turns) if message["role"] == USER and i]
    # The later the beginning, the shorter the text: the earliest that fits is found by halves.
    at = bisect_left(starts, True, key=lambda start: fits([*head, *turns[start:]]))
    if at < len(starts):
        return [*head, *turns[starts[at] :]], "turns"
    first, *rest = turns[starts[-1] if starts else 0 :]
    content = first["content"]

    def without(characters: int) -> list[Message]:
        return [*head, {**first, "content": content[characters:]}, *rest]

    cuts = range(1, len(content))
    at = bisect_left(cuts, True, key=lambda cut: fits(without(cut))) if words else len(cuts)
    return (without(cuts[at]), "words") if at < len(cuts) else ([*prompt], "nothing")
