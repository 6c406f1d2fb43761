"""A file of JSON lines that grows row by row and loses nothing when its writer is killed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from preflab.disk.files import sync
from preflab.errors import UserError

logger = logging.getLogger(__name__)


class Journal:
    """Rows on disk; only one process writes at a time.

    A row that a kill or a power cut left unfinished was never confirmed to anybody, and is dropped.

    Args:
        path: of the file; made, with its folder, if it does not exist.

    Raises:
        UserError: if it cannot be written, another process holds it, or a line of it is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}") from None
        try:
            self._lock()
            self.rows = self._open_rows()
        except UserError:
            self.close()
            raise

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on disk when this returns.

        Raises:
            UserError: if the file cannot be written, or another one stands in its place; nothing has changed then.
        """
        self._check_place()
        line = json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # the disk that failed may do so again
                self._cut(start)
            raise UserError(f"{self.path} cannot be written: {error}") from None
        self.rows.append(row)

    def remove(self, at: int = -1) -> dict[str, Any]:
        """Take a row back, the last one if nothing is said, and return it; the others stay as they are, to the byte.

        Raises:
            UserError: as `append` does.
        """
        self._check_place()
        lines, at = self.path.read_bytes().split(b"\n"), at % len(self.rows)
        line = [number for number, content in enumerate(lines) if content.strip()][at]
        if at == len(self.rows) - 1:
            self._cut(sum(len(before) + 1 for before in lines[:line]))
        else:
            self._replace(b"\n".join(lines[:line] + lines[line + 1 :]))
        return self.rows.pop(at)

    def close(self) -> None:
        """Let others write."""
        self._file.close()

    def _lock(self) -> None:
        """Keep others out; the kernel lets them in however this process ends, SIGKILL included."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{self.path} is being written by another process; wait, or choose --output") from None
        self._check_place()
        sync(self.path.parent)

    def _check_place(self) -> None:
        """Refuse to write into a file that nobody would find again: an editor, or `_replace`, put another there."""
        try:
            there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:
            there = False
        if not there:
            raise UserError(f"{self.path} was removed or replaced while it was open; run the same command again")

    def _replace(self, content: bytes) -> None:
        """Put a file with this content in the place of the one that there is, at once, and locked all along."""
        place = self.path.resolve()  # of a link, what it leads to
        temporary = place.with_name(f".{place.name}.tmp")
        new: IO[bytes] | None = None
        try:
            temporary.unlink(missing_ok=True)
            new = temporary.open("a+b", buffering=0)
            fcntl.flock(new, fcntl.LOCK_EX)
            os.fchmod(new.fileno(), stat.S_IMODE(place.stat().st_mode))
            if new.write(content) != len(content):
                raise OSError("the disk is full")
            os.fsync(new.fileno())
            temporary.replace(place)
        except OSError as error:
            if new is not None:
                new.close()
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise UserError(f"{self.path} cannot be written: {error}") from None
        sync(place.parent)
        self._file.close()
        self._file = new

    def _cut(self, size: int) -> None:
        os.ftruncate(self._file.fileno(), size)
        os.fsync(self._file.fileno())

    def _open_rows(self) -> list[dict[str, Any]]:
        """Read the rows; drop an unfinished last line, or end one that an editor left without a line's end."""
        content = self.path.read_bytes()
        start = content.rfind(b"\n") + 1
        rows, rest = parse_rows(content[:start], self.path), content[start:]
        # Only what looks like the beginning of a row is dropped: the file may be something else, named by mistake.
        if rest.startswith(b"{") and parse_object(rest) is None:
            logger.warning("%s: its last line was never finished and is dropped: %r", self.path, rest[:60])
            self._cut(start)
        elif rest:
            rows += parse_rows(rest, self.path)
            self._file.write(b"\n")
        return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one a line.

    Raises:
        UserError: if it cannot be read, or a line is something else.
    """
    try:
        return parse_rows(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def parse_rows(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Parse JSON objects, one a line.

    Raises:
        UserError: if a line is something else.
    """
    rows = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            row = parse_object(line)
            if row is None:
                raise UserError(f"{path}, line {number}: not a JSON object")
            rows.append(row)
    return rows


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if it is no JSON object."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
