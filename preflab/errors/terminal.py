"""What reaches a person's terminal or log: foreign text made harmless, on streams that outlive their reader."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from preflab.errors import speaking

if TYPE_CHECKING:
    from rich.console import Console

JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them, and they move no cursor
LONGEST_LINE = 2000
"""Characters of an error or a line of a log: a value of a megabyte is not what a person reads."""


def printable(text: str) -> str:
    """Return text in which nothing steers a terminal: such characters are written as escapes.

    Escape sequences could clear the screen, change the window's title or show one response as another; marks of
    writing direction could reorder what is read. New lines stay, tabs and odd spaces become plain spaces.
    """
    return "".join(map(_shown, text.replace("\r\n", "\n").expandtabs(4)))


def _shown(character: str) -> str:
    if character == "\n" or character in JOINERS or character.isprintable():
        return character
    return " " if character.isspace() and ord(character) > 0x9F else character.encode("unicode_escape").decode()


def one_line(text: object, limit: int = LONGEST_LINE) -> str:
    """Return any text as one harmless line of at most `limit` characters, its middle left out where it is longer."""
    words = " ".join(shortened(str(text), 4 * limit).split())
    return shortened(printable(words), limit)


def shortened(text: str, limit: int) -> str:
    """Return text of at most `limit` characters, its middle left out."""
    if len(text) <= limit:
        return text
    mark = f" … {len(text) - limit:,} characters left out … " if limit > 200 else "…"
    kept = max(0, limit - len(mark))
    return text[: kept - kept // 2] + mark + text[len(text) - kept // 2 :]


def shown(value: object, limit: int = 80) -> str:
    """Return a value as Python writes it, shortened; whatever stands in for values that cannot be written."""
    try:
        text = repr(value)
    except Exception:  # whole numbers of more digits than Python writes, and objects of a stranger's own
        text = f"<{type(value).__name__}>"
    return shortened(text, limit)


def say(text: object) -> None:
    """Print one line, whatever is in it; where stdout is for JSON, which says it itself, none."""
    if not speaking.answers_in_json():
        print(one_line(text, 10 * LONGEST_LINE))


def console(width: int | None = None) -> Console:
    """Return what tables are printed by: nothing in texts is markup, or coloured by its looks."""
    from rich.console import Console

    return Console(width=width, highlight=False, markup=False, emoji=False)


class SafeFormatter(logging.Formatter):
    """Writes each record as one harmless line; a traceback, where there is one, below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = one_line(f"{record.levelname} {record.name}: {record.getMessage()}")
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return "\n".join(part for part in (line, printable(trace)) if part)


class ToStderr(logging.Handler):
    """Writes records to what stderr is by then: while a terminal has a live display, lines go above that."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as the library's own handlers do
            self.handleError(record)


def log_to_stderr() -> None:
    """Send warnings of this project and its libraries to stderr by `SafeFormatter`, unless somebody listens already."""
    if not logging.getLogger().handlers:
        handler = ToStderr()
        handler.setFormatter(SafeFormatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        logging.captureWarnings(True)  # libraries' warnings go the same way
        # PEFT imports it, if it is there, and on a CPU it misses a kernel that nothing here asks for.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def no_bars() -> None:
    """Keep libraries from drawing bars, in this process and those that it starts; for before they are imported.

    In a file a bar is thousands of lines, in a terminal it lies across our own display.
    """
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")


_CLEARING: list[Callable[[], object]] = []


def before_a_message(clear: Callable[[], object]) -> None:
    """Have something called before the last message of a command: what takes a display away."""
    _CLEARING.append(clear)


def clear() -> None:
    """Take away whatever is displayed."""
    for remove in _CLEARING:
        remove()


def leave_it_to_the_first() -> None:
    """Say nothing but what ends this process: of several that do the same, one tells."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the process's life)
    logging.disable(logging.WARNING)


class _Outlet(io.FileIO):
    """A descriptor whose reader may go away, as ``| head`` does: what comes after is dropped, and work goes on."""

    def write(self, content: Any) -> int:
        """Write, into nothing once nobody reads."""
        try:
            return super().write(content)
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return len(content)


def lasting_streams() -> None:
    """Give a script's own stdout and stderr a reader that never goes away, and an escape for what they cannot encode.

    Streams that somebody has put in their place are left as they are.
    """
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by the shell: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for the process's life)
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
            lines = name == "stderr" or stream.isatty()
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", "\n", line_buffering=lines))
