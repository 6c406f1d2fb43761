"""The exact worlds' languages: a few symbols and prompts, every response, and the planted reward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SYMBOLS = ("a", "b", "c", "d", "e")
END = len(SYMBOLS)
"""Id of the end token of `EXACT`; a symbol's id is its place."""


class Language(NamedTuple):
    """What can be said.

    Attributes:
        name: what its base and its reward are kept by.
        rare: symbols that the reference hardly ever says, after `SYMBOLS`; a response with one of them is malformed.
    """

    name: str
    rare: tuple[str, ...] = ()

    @property
    def symbols(self) -> tuple[str, ...]:
        """All of them, by their ids."""
        return SYMBOLS + self.rare

    @property
    def end(self) -> int:
        """Id of the end token."""
        return len(self.symbols)

    def malformed(self) -> NDArray[np.bool_]:
        """Return which of `all_responses` hold a rare symbol, ``[N]``."""
        return np.array([any(END <= token < self.end for token in ids) for ids in all_responses(self)])

    def widened(self, table: Array, rare: float, axis: int) -> Array:
        """Return numbers of `SYMBOLS` and the end token along an axis, with one for every rare symbol between."""
        return np.insert(table, [END] * len(self.rare), rare, axis=axis) if self.rare else table


EXACT = Language("exact")
TAIL = Language("tail", ("f", "g", "h"))
"""The same, with a long tail: five hundred responses that nobody means, and that the reference all but never gives."""

RARE_SHARE = 3e-6
"""Of every next token's probability, what the tail's reference is fitted to give each rare symbol."""

MAX_RESPONSE_TOKENS = 3

# Of unequal lengths, so that left-padding takes part in everything.
PROMPTS = ("a", "b c", "d", "e c a")

REWARD_SCALE = 1.9
"""The largest score of a token at a place. It sets how far the optimum at β = 1 lies: a little more than a nat."""


def all_responses(language: Language = EXACT) -> list[tuple[int, ...]]:
    """Return every response: those that end, shortest first, then those that the limit cuts; 156 in the exact world."""
    symbols, limit = range(language.end), MAX_RESPONSE_TOKENS
    ended = [(*ids, language.end) for n in range(limit) for ids in itertools.product(symbols, repeat=n)]
    return ended + list(itertools.product(symbols, repeat=limit))


def text_of(ids: Sequence[int], language: Language = EXACT) -> str:
    """Return a response as text; one of three symbols was cut, a shorter one ended."""
    return " ".join(language.symbols[i] for i in ids if i != language.end)


SERIES = 7
"""Which scores are drawn: a series in which no prompt's reference says one thing most of the time."""


class TokenScores(NamedTuple):
    """Numbers in [−1, 1] that say how good a token is.

    Attributes:
        at_place: ``[X, T, V]`` by prompt, place in the response and token.
        in_a_row: ``[V, V]`` by the token before and the token.
    """

    at_place: Array
    in_a_row: Array


def token_scores(seed: int, language: Language = EXACT) -> TokenScores:
    """Draw the scores evenly from [−1, 1], and from [−0.7, 0.7] for two in a row; rare symbols are as bad as any, −1.

    Bounds keep the optimum away from responses that the reference hardly ever gives.
    """
    rng = np.random.default_rng([seed, 0, SERIES])
    at_place = rng.uniform(-1, 1, size=(len(PROMPTS), MAX_RESPONSE_TOKENS, END + 1))
    in_a_row = 0.7 * rng.uniform(-1, 1, size=(END + 1, END + 1))
    return TokenScores(
        language.widened(at_place, -1.0, axis=2), language.widened(language.widened(in_a_row, 0.0, axis=0), 0.0, axis=1)
    )


def reward_table(seed: int, language: Language = EXACT) -> Array:
    """Return r* of every response to every prompt, ``[X, N]`` in the order of `all_responses`.

        r*(x, y) = c [Σ_t u(x, t, y_t) + Σ_t b(y_t, y_{t+1})] − mean over all well-formed y

    with the scores u (at a place) and b (in a row) of `token_scores`, the end token's included.
    """
    u, b = token_scores(seed, language)

    def score(x: int, ids: tuple[int, ...]) -> float:
        return float(
            sum(u[x, t, token] for t, token in enumerate(ids)) + sum(b[two] for two in itertools.pairwise(ids))
        )

    responses = all_responses(language)
    table = REWARD_SCALE * np.array([[score(x, ids) for ids in responses] for x in range(len(PROMPTS))])
    return np.asarray(table - table[:, ~language.malformed()].mean(1, keepdims=True))


class PlantedTable:
    """r* of texts, read off the table."""

    def __init__(self, seed: int, language: Language = EXACT) -> None:
        texts = [text_of(ids, language) for ids in all_responses(language)]
        self.scores = {
            (prompt, text): float(score)
            for prompt, row in zip(PROMPTS, reward_table(seed, language), strict=True)
            for text, score in zip(texts, row, strict=True)
        }

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return r* of each response to its prompt.

        Raises:
            KeyError: for a text that is no prompt or no response of this world.
        """
        pairs = zip(prompts, responses, strict=True)
        return [self.scores[" ".join(p.split()), " ".join(r.split())] for p, r in pairs]
