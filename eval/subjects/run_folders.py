"""Stages of runs, ours or anybody's, read as data: code that a folder names is run only if the user names it too."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from preflab.disk.files import read_object
from preflab.disk.seals import SUMS, damage
from preflab.disk.stages import RECORD
from preflab.errors import UserError
from preflab.experiment.identity import StandsOn

logger = logging.getLogger(__name__)

MethodOf = tuple[str, Mapping[str, Any]]


class Origin(NamedTuple):
    """Where a trained policy comes from, as far as it is known.

    Attributes:
        method: name and settings of the method that trained it, where its code may be run.
        start: the adapter that its training started from.
        maximised: the reward model's adapter that its training maximised.
    """

    method: MethodOf | None
    start: str | None
    maximised: str | None


def read_stage(path: Path, methods: Sequence[str] = ()) -> Origin:
    """Read what a stage says of itself.

    Args:
        path: of the stage.
        methods: places of code (``file.py:Class``) that the user names, and that may thus be run.

    Raises:
        UserError: if a field is of a wrong type, or names something outside the run.
    """
    record = path / RECORD
    inputs = read_object(record).get("inputs")
    if not isinstance(inputs, dict):
        raise UserError(f"{record}: inputs is {inputs!r:.60}; it must be an object")
    given = "given" in inputs and "method" not in inputs  # brought along: no method of the run trained it
    method = None if given else _method(record, inputs.get("method"), inputs.get("config"), methods)
    keys = StandsOn.said(inputs)
    start, maximised = (_beside(path, name, key) for name, key in keys._asdict().items())
    return Origin(method, start, maximised)


def verify(path: Path) -> bool:
    """See that no file of a stage was changed since it was written; say whether there are digests to tell by.

    Args:
        path: of the stage, or of a role's folder in it; of anything else nothing is known.

    Raises:
        UserError: if one was changed, with its name.
    """
    stages = [folder for folder in (path, path.absolute().parent) if (folder / RECORD).is_file()]
    if not stages:
        return True
    if not (stages[0] / SUMS).is_file():
        return False
    trouble = damage(stages[0])
    if trouble is not None:
        raise UserError(f"stage {stages[0]} is damaged: {trouble}; the command that made it builds it again")
    return True


def _method(record: Path, name: Any, config: Any, methods: Sequence[str]) -> MethodOf | None:
    if not isinstance(name, str) or not isinstance(config, dict):
        raise UserError(f"{record}: method is {name!r:.60} and config {config!r:.60}; they must be text and an object")
    if ":" not in name:
        return name, config
    named = [place for place in methods if _ending(place) == _ending(name)]
    if named:
        return named[0], config
    logger.warning(
        "%s was trained by %s, which is not imported: code that a folder names is not run. Its policy is sampled "
        "plainly; if the method decodes in a way of its own, name it: --methods %s",
        record.parent.name,
        name,
        name,
    )
    return None


def _ending(place: str) -> tuple[str, str]:
    """Return a place's file or module, wherever it lies, and the name in it."""
    where, _, name = place.rpartition(":")
    return PurePath(where).name, name


def _beside(path: Path, field: str, key: Any) -> str | None:
    """Return the folder of the role that a stage stands on in another stage of the same run; None where not known.

    Args:
        path: of the stage.
        field: of `StandsOn`.
        key: of the other stage, as somebody wrote it.
    """
    role = "reward" if field == "reward" else "policy"
    if key is None:
        return None
    if not isinstance(key, str) or not re.fullmatch(r"[\w.-]{1,80}", key) or key.startswith("."):
        raise UserError(f"{path / RECORD}: {field} is {key!r:.60}; it must be the key of a stage of the same run")
    found = sorted(
        stage / role
        for stage in path.absolute().parent.iterdir()
        if stage.name.endswith(f"-{key}") and not stage.name.startswith(".") and (stage / role).is_dir()
    )
    if not found:
        return None
    verify(found[0].parent)
    return str(path.parent / found[0].parent.name / role)
