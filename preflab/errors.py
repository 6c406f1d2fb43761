"""Errors that are a person's to mend, kept apart from bugs."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in the input: the message says what is wrong, where, and what to do.

    Recipes print it without a traceback and leave with exit status 2.
    """


def near_misses(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known names, or ``""``."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def run_recipe(main: Callable[[], None]) -> None:
    """Run a recipe's ``main``; answer a `UserError` in one line and exit with status 2."""
    # Python puts a script's own folder first, where recipes/evaluate.py would stand for the evaluate library.
    folder = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    try:
        main()
    except UserError as error:
        _end_progress_bars()
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # libraries' messages have many lines
        sys.exit(2)
    except KeyboardInterrupt:
        _end_progress_bars()
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _end_progress_bars() -> None:
    """Close what an exception left open: the message must not go on in the line of a bar."""
    if "tqdm" in sys.modules:
        for bar in tuple(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
