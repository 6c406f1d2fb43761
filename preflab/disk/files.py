"""Files: written whole and through to the disk, read without trust; a full disk is one line."""

from __future__ import annotations

import errno
import json
import logging
import math
import numbers
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from preflab.errors import UserError

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
"""Of a JSON file that describes something: a record, a config. Data and weights have no such limit."""

DEEPEST = 64
NAMED = 5  # of the values that JSON cannot hold; the others are counted
FULL = ("No space left on device", "Disk quota exceeded", "file write failed")  # libraries' words, torch's last
NO_ROOM = 2**16


# ---- writing -----------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    # Half of a surrogate pair, which JSON can spell and UTF-8 cannot, is written as JSON's own escape of it.
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file in the same way.

    Raises:
        UserError: if the disk is full, or the file cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with disk_space(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except (OSError, UserError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since JSON has none (see `json_ready`)."""
    write_text(path, json.dumps(content, indent=2, sort_keys=False, allow_nan=False, default=str) + "\n")


def write_result(path: Path, content: Any) -> Any:
    """Write JSON atomically, whatever is in it: what JSON cannot hold is said, and written as null or text.

    Returns:
        The content as it is written.

    Raises:
        UserError: if the file cannot be written.
    """
    ready, changed = json_ready(content)
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        named = "; ".join(changed[:NAMED])
        logger.warning("%s: JSON cannot hold all of it: %s%s; written as null or text", path.name, named, more)
    write_json(path, ready)
    return ready


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@contextmanager
def disk_space(path: Path) -> Iterator[None]:
    """Answer a full disk, whichever library meets it, in one line.

    Raises:
        UserError: in place of an error that a full disk is behind.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library wraps the system's error in a type of its own
        if not _full(error, path):
            raise
        raise UserError(
            f"no space left on the disk of {path}: nothing finished is lost; free space and run the same command again"
        ) from error


def _full(error: BaseException | None, path: Path) -> bool:
    """Whether a full disk is behind an error; some libraries tell no more than that less was written than asked for."""
    if isinstance(error, (OSError, RuntimeError)) and _free(path) < NO_ROOM:
        return True
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(path: Path) -> int:
    there = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))
    return shutil.disk_usage(there).free


def sync(path: Path) -> None:
    """See a file's content, or a folder's list of names, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove whatever is at a path, a folder with all in it; a link, not what it leads to.

    Raises:
        UserError: if the system refuses.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be removed: {error.strerror or error}; remove it by hand") from None


def json_ready(content: Any, where: str = "", above: tuple[int, ...] = ()) -> tuple[Any, list[str]]:
    """Return what JSON can hold of anything, as it reads back, and what had to be changed for it.

    Numbers that are none (NaN, infinity) become null, unknown objects their text.
    """
    if content is None or isinstance(content, (str, bool)):
        return content, []
    if isinstance(content, PurePath):
        return str(content), []
    if isinstance(content, numbers.Integral) and int(content).bit_length() <= 1024:
        return int(content), []
    if isinstance(content, numbers.Real) and not isinstance(content, numbers.Integral):
        number = float(content)
        return (number, []) if math.isfinite(number) else (None, [f"{where} is {number}"])
    if isinstance(content, (Mapping, list, tuple)) and id(content) not in above and len(above) < DEEPEST:
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        parts = {
            _shown(name): json_ready(part, f"{where}.{_shown(name)}".lstrip("."), (*above, id(content)))
            for name, part in pairs
        }
        changed = [line for _, lines in parts.values() for line in lines]
        ready = {name: part for name, (part, _) in parts.items()}
        return (ready if isinstance(content, Mapping) else list(ready.values())), changed
    return _shown(content), [f"{where} is of type {type(content).__name__}"]


def _shown(content: Any) -> str:
    try:
        return content if isinstance(content, str) else repr(content)[:200]
    except Exception:  # an object of anybody's making
        return f"<{type(content).__name__}>"


# ---- reading -----------------------------------------------------------------------------------------


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines.

    Raises:
        UserError: if the file cannot be read, or a line is no JSON object.
    """
    try:
        # Not `splitlines`: JSON strings may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return [_row(line, number, path) for number, line in enumerate(lines, 1) if line]


def _row(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number}: not a JSON object")
    return row


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, wherever it comes from.

    Raises:
        UserError: if it cannot be read, is larger than `MOST_BYTES`, too deeply nested, or something else.
    """
    try:
        if not path.is_file():
            raise OSError("no regular file" if os.path.lexists(path) else "it does not exist")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes; at most {MOST_BYTES} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content
