"""Errors that are a person's to mend, kept apart from bugs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

LONGEST_NAME = 100  # characters; past that a name is no misspelling, and comparing takes long


class UserError(Exception):
    """A mistake in the input: the message says what is wrong, where, and what to do.

    Recipes print it without a traceback and leave with exit status 2.
    """


class PluginError(UserError):
    """Code that a person brought along failed; the traceback, which is theirs to read, goes to ``crash.log``."""


class Shown(SystemExit):
    """What was asked for has been shown, such as a help text, and nothing is left to do."""


def near_misses(name: str, known: Iterable[str], written: Callable[[str], str] = repr) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known names, as one would write them, or ``""``."""
    if len(name) > LONGEST_NAME:
        return ""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(written, close))}?)" if close else ""
