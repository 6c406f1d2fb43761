"""SHA-256 of text, bytes and files, in hex digits: one way to name what depends on content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

BLOCK = 1 << 20


def digest(content: str | bytes, digits: int = 64) -> str:
    """Return the first hex digits of the SHA-256 of bytes, or of text in UTF-8 (lone surrogates escaped)."""
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:digits]


def digest_of_parts(parts: Iterable[bytes], digits: int = 64) -> str:
    """Return the first hex digits of the SHA-256 of parts, one behind the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:digits]


def digest_of_files(*paths: Path, digits: int = 64) -> str:
    """Return the first hex digits of the SHA-256 of files, one behind the other; none is held in memory whole.

    Raises:
        OSError: if one cannot be read.
    """
    return digest_of_parts((block for path in paths for block in _blocks(path)), digits)


def _blocks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
