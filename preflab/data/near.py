"""Prompts that are nearly the same on two sides of a split, where a hash of the whole text sees two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WORDS = 4
"""Words in a row that are compared."""

ALIKE = 0.8
"""Share of these that two prompts have in common, of all that either has (Jaccard)."""

WIDESPREAD = 50, 0.1, 5
"""Words in a row that so many prompts have, or such a share of them and so many at least, belong to a form (a template,
a preamble) rather than to what is asked."""

MOST = 50_000
"""Prompts of either side that are looked at: of more, as many at even distances."""

_WORD = re.compile(r"\w+")


class Near(NamedTuple):
    """Prompts of two sides that are nearly the same.

    Attributes:
        held: how many prompts of the held-out side have such a partner.
        looked_at: how many of either side were compared.
        example: one of each side.
    """

    held: int
    looked_at: tuple[int, int]
    example: tuple[str, str] | None


def near_duplicates(train: Sequence[str], held: Sequence[str]) -> Near:
    """Find held-out prompts that differ from a training prompt in case, punctuation or a few words.

    Args:
        train: different prompts that are learnt from.
        held: different prompts that are evaluated on.
    """
    train, held = _thinned(train), _thinned(held)
    pieces = [set(_pieces(prompt)) for prompt in held]
    common = Counter(piece for own in pieces for piece in own)
    most, share, least = WIDESPREAD
    rare = min(most, max(least, round(share * len(held))))
    pieces = [{piece for piece in own if common[piece] <= rare} for own in pieces]
    where: dict[int, list[int]] = {}
    for at, own in enumerate(pieces):
        for piece in own:
            where.setdefault(piece, []).append(at)
    partners: dict[int, str] = {}
    for prompt in train:
        own = {piece for piece in _pieces(prompt) if common[piece] <= rare}
        shared = Counter(at for piece in own for at in where.get(piece, ()))
        for at, count in shared.items():
            if count >= ALIKE * (len(own) + len(pieces[at]) - count):
                partners.setdefault(at, prompt)
    first = min(partners, default=None)
    example = None if first is None else (partners[first], held[first])
    return Near(len(partners), (len(train), len(held)), example)


def _thinned(prompts: Sequence[str]) -> Sequence[str]:
    return prompts[:: -(-len(prompts) // MOST)] if prompts else prompts


def _pieces(prompt: str) -> Iterator[int]:
    """Yield what words in a row hash to; a short prompt is one piece."""
    words = _WORD.findall(prompt.casefold())
    for start in range(max(1, len(words) - WORDS + 1)):
        yield hash(tuple(words[start : start + WORDS]))
