"""How much a command says: everything, warnings and the result (``--quiet``), or the result as JSON (``--json``).

What is on stdout after ``--json`` is one JSON document, however the command ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from preflab.errors import UserError

_FALSE = ("false", "no", "off", "0")
_quiet: list[bool] = []
_stdout: list[TextIO] = []
_results: list[Any] = []


def be_quiet() -> None:
    """Say from here on nothing but warnings and the result."""
    _quiet.append(True)


def is_quiet() -> bool:
    """Whether nothing is to be said but warnings and the result."""
    return bool(_quiet)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether options say ``--json``, as far as can be told before they are read: a mistake in them is answered so too.

    Whoever asks for help is to read it.
    """
    if {"-h", "--help"} & {*arguments}:
        return False
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag == "--json":
            return (value if equals else after).lower() not in _FALSE
    return False


def answer_in_json() -> None:
    """Keep stdout for one JSON document: whatever else this process or a library writes there goes to stderr."""
    if _stdout:
        return
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
        kept: TextIO = open(os.dup(descriptor), "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (till the end)
        os.dup2(sys.stderr.fileno(), descriptor)
    except (OSError, ValueError):  # a stream that somebody has put in its place
        kept = sys.stdout
    sys.stdout = sys.stderr
    _stdout.append(kept)


def answers_in_json() -> bool:
    """Whether the result goes to stdout as JSON, and is not to be printed for people."""
    return bool(_stdout)


def result(content: Any) -> None:
    """Take the result, JSON-ready, for `give`: whatever fails until then is the answer in its place."""
    _results[:] = [content]


def refuse_json(what: str) -> None:
    """Refuse ``--json`` where there will be no result.

    Raises:
        UserError: naming what has none.
    """
    if _stdout:
        raise UserError(f"--json gives a result as JSON, and {what} has none; leave one of the two out")


def give() -> None:
    """Write the result, where it is to be JSON, at the end of a command.

    Raises:
        OSError: where stdout takes it no more.
    """
    if _stdout:
        _write(_results[0] if _results else None)


def failed(message: str, status: int) -> None:
    """Write what went wrong in place of the result, where that was to be JSON."""
    if _stdout:
        with suppress(OSError):  # a full disk, or nobody who reads: stderr has it
            _write({"error": message, "status": status})


def _write(content: Any) -> None:
    # ASCII: no terminal is steered by it, and no encoding can be wrong.
    print(json.dumps(content, indent=2, allow_nan=False), file=_stdout[0], flush=True)
