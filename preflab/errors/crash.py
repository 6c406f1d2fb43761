"""What is kept of an exception that nobody foresaw: ``crash.log``, with everything needed to find the fault."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from preflab.errors.terminal import one_line, printable

LOG = "crash.log"
SECRET_NAMES = re.compile(r"(?i)(?:key|token)$|secret|passw|credential")
SECRET_SHAPES = re.compile(
    r"\b(?:sk|pk|hf|ghp|gho|glpat|xox[abp])[-_][\w-]{8,}|(?<=://)[^/\s@]+@|"
    r"(?i:(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=[?&]apikey=)|(?<=token=)|(?<=[?&]sig=)|(?<=signature=))[^&\s#'\"]+"
)
SECRET_OPTIONS = re.compile(r"(?i)(--[\w.-]*(?:token|secret|passw\w*|api-?_?key)[= ])\S+")
SHORTEST_SECRET = 6  # placeholders such as "none" are no secrets, and would be struck from every word

_places: list[Path] = []
_secrets: set[str] = set()


def log_in(folder: Path) -> None:
    """Keep the log of a crash in a run's folder, if there is one by then."""
    _places.append(folder)


def keep_secret(value: str) -> None:
    """Strike a value from every log, under whatever name it came."""
    _secrets.add(value)


def without_secrets(text: str) -> str:
    """Return text without what is known as a secret, looks like one, or stands in the environment under such a name."""
    named = {value for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    for secret in sorted(_secrets | named, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return SECRET_OPTIONS.sub(r"\1***", SECRET_SHAPES.sub("***", text))


def struck(content: Any) -> Any:
    """Return JSON-ready content without what is a secret by its name, or as `without_secrets` knows it."""
    if isinstance(content, Mapping):
        return {k: "***" if SECRET_NAMES.search(str(k)) else struck(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [struck(item) for item in content]
    return without_secrets(content) if isinstance(content, str) else content


def at(error: BaseException, files: Collection[str] = ()) -> str | None:
    """Return file and line of the innermost frame that an exception came through.

    Args:
        error: the exception.
        files: whose frames count; none: all but those of the import system.

    Returns:
        None where there is no such frame.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [place for place in frames if (place[0] in files if files else not place[0].startswith("<frozen"))]
    return f"{ours[-1][0]}, line {ours[-1][1]}" if ours else None


def described(error: BaseException) -> str:
    """Return type and message of an exception, in one line."""
    try:
        message = str(error)
    except Exception:  # of a stranger's own making
        message = "(its message cannot be read)"
    return one_line(f"{type(error).__name__}: {message}" if message else type(error).__name__, 600)


def write_log(error: BaseException) -> Path | None:
    """Write the log into the run's folder, or else where temporary files go.

    Returns:
        Its path; None where it could be written nowhere.
    """
    text = printable(without_secrets(_text(error)))
    for folder in [place for place in reversed(_places) if place.is_dir()]:
        try:
            (folder / LOG).write_text(text, encoding="utf-8")
            return folder / LOG
        except OSError:
            pass
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="preflab-", suffix=f"-{LOG}", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)


def _text(error: BaseException) -> str:
    from preflab.versions import versions

    facts = {"command": " ".join(sys.argv), "python": sys.version, "machine": platform.platform(), **versions()}
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return "\n".join([*(f"{name}: {value}" for name, value in facts.items()), "", trace])
