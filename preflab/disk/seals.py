"""Seals: the SHA-256 of every file of a folder, beside them, so that damage is noticed before anything is read.

The list has the form that ``sha256sum -c SHA256SUMS`` checks. A seal guards against disks, copies and hands, not
against somebody who writes a new one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from preflab.disk.digests import digest_of_files
from preflab.disk.files import remove, sync, write_bytes

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def seal(folder: Path) -> None:
    """Write every file of a folder through to the disk, and the list of their digests; what is no file is removed."""
    found = files(folder)
    sums = {}
    for name, path in list(found.items()):
        if not stat.S_ISREG(path.lstat().st_mode):  # a link or a pipe: nothing that we write
            remove(found.pop(name))
            continue
        sync(path)
        sums[name] = digest_of_files(path)
    for inner in {path.parent for path in found.values()}:
        sync(inner)
    _write(folder, sums)


def damage(folder: Path) -> str | None:
    """Say what is wrong with a sealed folder; None where every file is as it was written, and no other is there."""
    try:
        listed, found = _read(folder), files(folder)
    except (OSError, ValueError) as error:
        return _reason(error)
    for name in sorted(listed.keys() | found.keys()):
        if name not in listed:
            return f"{name} is none of its files"
        trouble = _trouble(found.get(name), name, listed[name])
        if trouble is not None:
            return trouble
    return None


def seal_file(path: Path) -> None:
    """Add one file to the list of its folder, which is not finished yet."""
    sync(path)
    try:
        listed = _read(path.parent)
    except (OSError, ValueError):  # a damaged list vouches for nothing
        listed = {}
    _write(path.parent, {**listed, path.name: digest_of_files(path)})


def file_damage(path: Path) -> str | None:
    """Say what is wrong with one file that is in its folder's list, or should be."""
    try:
        listed = _read(path.parent)
    except (OSError, ValueError) as error:
        return _reason(error)
    if path.name not in listed:
        return f"{path.name} is not in {SUMS}"
    return _trouble(path if os.path.lexists(path) else None, path.name, listed[path.name])


def files(folder: Path) -> dict[str, Path]:
    """Return everything in a folder but folders, links included, by its path from there; the list itself left out.

    Raises:
        OSError: if a folder cannot be read.
    """
    found: dict[str, Path] = {}

    def fail(error: OSError) -> None:
        raise error

    for at, folders, names in os.walk(folder, onerror=fail):
        for name in (*names, *(inner for inner in folders if (Path(at) / inner).is_symlink())):
            path = Path(at) / name
            found[path.relative_to(folder).as_posix()] = path
    found.pop(SUMS, None)
    return found


def _trouble(path: Path | None, name: str, digest: str) -> str | None:
    if path is None:
        return f"{name} is missing"
    try:
        # Opening a pipe would wait for ever.
        if not stat.S_ISREG(path.lstat().st_mode):
            return f"{name} is no regular file"
        return None if digest_of_files(path) == digest else f"{name} has changed since it was written"
    except OSError as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(os.fsdecode(error.filename or SUMS)).name} cannot be read: {error.strerror}"
    return str(error)


def _read(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not os.path.lexists(path):
        raise ValueError(f"it has no {SUMS}, without which nothing can be verified")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{SUMS} is no regular file")
    lines = path.read_bytes().decode("utf-8", errors="surrogateescape").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    if not all(matches):
        raise ValueError(f"{SUMS} is damaged")
    return {match[2]: match[1] for match in matches if match}


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    write_bytes(folder / SUMS, text.encode("utf-8", errors="surrogateescape"))
    sync(folder)
