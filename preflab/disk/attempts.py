"""Attempts at a stage by processes that know nothing of one another, as on several machines with one shared folder.

Each works in a folder of its own, ``.NAME-KEY.partial.ATTEMPT``: the first to finish gives its folder the stage's name,
by a rename, and the others drop theirs. No lock is needed, which network storage need not have. An attempt begins with
a copy of what the furthest one before it left: checkpoints and parts are sealed, and verified by whoever goes on from
them, so that what a living one was just writing is passed over.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from preflab.disk.files import remove


def others(working: Path) -> list[Path]:
    """Return the folders of other attempts at the stage that a folder is to become."""
    own = working.name.partition(".partial")[0]
    return [path for path in working.parent.glob(f"{own}.partial*") if path != working and path.is_dir()]


def go_on(working: Path) -> None:
    """Copy what the furthest other attempt left into a folder that is not there yet, if there is any."""
    found = others(working)
    if working.exists() or not found:
        return
    try:
        shutil.copytree(max(found, key=_last_written), working)
    except (OSError, shutil.Error):  # it lives, and its files come and go
        remove(working)


def tidy(stages: Path) -> None:
    """Remove attempts at stages that are finished; for when nobody is at work."""
    for path in stages.glob(".*.partial*"):
        if (stages / path.name[1:].partition(".partial")[0]).is_dir():
            remove(path)


def _last_written(folder: Path) -> float:
    """Return when a file of a folder was last written; 0 where there is none."""
    times = [0.0]
    for path in folder.rglob("*"):
        try:
            times.append(path.lstat().st_mtime if path.is_file() else 0.0)
        except OSError:  # gone meanwhile
            continue
    return max(times)
