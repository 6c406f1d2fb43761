"""An annotator asked in a terminal; each verdict is on disk before the next pair is shown."""

from __future__ import annotations

import shutil
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, cast

from preflab.errors import UserError
from preflab.errors.terminal import console, printable, say
from preflab.eval.annotation.sitting import Choice, Shown, Sitting

if TYPE_CHECKING:
    from rich.console import Console

HINT = "[1] or [2] is better   [t]ie   [s]kip   [u]ndo   [q]uit"
WORDS = {"tie": "t", "skip": "s", "undo": "u", "quit": "q"}
KEYS = {"1": "1", "2": "2", **WORDS, **{key: key for key in WORDS.values()}}
WIDTH = 100


def ask_in_terminal(sitting: Sitting, output: str) -> None:
    """Ask for a verdict on each pair that this annotator has not judged.

    Args:
        sitting: the annotator's pairs.
        output: what to call the file of verdicts.

    Raises:
        UserError: where there is nobody to ask, or a verdict cannot be written.
    """
    if sys.stdin is None:  # closed by the shell: `<&-`
        raise UserError("there is nobody to ask: standard input is closed; run it in a terminal")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know less than UTF-8, or send more
    page = console(min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    page.print(f"{sitting.judged} of {sitting.total} pairs are judged. {HINT}")
    _ask_all(sitting, page)
    rest = "" if sitting.judged == sitting.total else "; run the same command again to go on"
    say(f"{sitting.judged} of {sitting.total} pairs are judged, in {output}{rest}")


def _ask_all(sitting: Sitting, page: Console) -> None:
    """Go through the open pairs, forth and back, until the end or the key q."""
    while shown := sitting.current:
        _show(shown, page, f"{sitting.judged} of {sitting.total} judged")
        key = _ask()
        if key == "q":
            break
        if key == "s":
            sitting.skip(shown)
        elif key == "u":
            if not sitting.undo():
                page.print("nothing to undo")
        else:
            sitting.judge(shown, cast(Choice, key))


def _show(shown: Shown, page: Console, progress: str) -> None:
    """Print a pair; frames keep apart what is ours and what a model wrote."""
    from rich.panel import Panel
    from rich.text import Text

    page.rule(progress)
    for title, text in zip(("prompt", "1", "2"), (shown.pair.prompt, *shown.responses), strict=True):
        page.print(Panel(Text(printable(text)), title=title, title_align="left"))
    page.print(HINT)


def _ask() -> str:
    """Return one of 1, 2, t, s, u, q; the end of the input means q."""
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return "q"
        if key := KEYS.get(line.strip().lower()):
            return key
        print(f"type one key and Enter: {HINT}")
