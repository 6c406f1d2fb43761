"""How many texts go through a model together, where no loss says so. No torch at import time."""

from __future__ import annotations

DEFAULT_BATCH = 32
DEFAULT_TOKENS = 384
"""Tokens of a prompt and its response at the default limits."""


def rows_at_once(most: int, longest: int, batch_size: int | None = None) -> int:
    """Return how many texts to lay out together, so that memory follows the settings and not the data.

    They hold about as many tokens as `most` texts of `DEFAULT_TOKENS` do at a batch of `DEFAULT_BATCH`, fewer or more
    in proportion to the batch; and there are never fewer of them than the batch has, nor more than `most`.

    Args:
        most: texts at once where they are short.
        longest: tokens of the longest.
        batch_size: the user's setting; None where there is none.
    """
    batch = DEFAULT_BATCH if batch_size is None else batch_size
    fitting = batch * most * DEFAULT_TOKENS // (DEFAULT_BATCH * max(1, longest))
    return min(most, max(1 if batch_size is None else batch_size, fitting))
