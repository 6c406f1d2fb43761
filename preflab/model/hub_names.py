"""What a model is called on the hub, and on which terms it may be used, told by its files. No torch, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

NAME = re.compile(r"(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}")
SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})")
REVISION = re.compile(r"[0-9a-f]{40}")
TERMS = ("license", "license_name", "license_link")
LONGEST = 200


class HubModel(NamedTuple):
    """A model of the hub.

    Attributes:
        name: ``owner/name``.
        revision: the commit whose files these are; None where it is not known.
    """

    name: str
    revision: str | None = None


def hub_model(source: str) -> HubModel | None:
    """Return what a model is on the hub: by its name, or by its place among the hub's own downloads.

    A folder's config may name another model (``_name_or_path``): the one that its weights were made *from*, on which an
    adapter opened by that name would lie. It says nothing here.

    Returns:
        None for a folder of this machine.
    """
    path = _folder(source)
    if path is not None:
        kept = SNAPSHOT.fullmatch("/".join(path.absolute().parts[-3:]))
        return HubModel(f"{kept[1]}/{kept[2]}", kept[3]) if kept else None
    if not NAME.fullmatch(source):
        return None
    folder = _downloaded(source, "config.json")
    revision = folder.name if folder is not None and REVISION.fullmatch(folder.name) else None
    return HubModel(source, revision)


def public_name(source: str) -> str:
    """Return a model's name on the hub, or, where it has none, what it is called here."""
    found = hub_model(source)
    return found.name if found else source


def called_alike(named: str, source: str) -> bool:
    """Whether a model goes by a name, wherever either lies: by the last part of one, in whatever case."""
    names = (PurePath(name).name.lower() for name in (source, public_name(source)))
    return PurePath(named).name.lower() in names


def terms_of(source: str) -> dict[str, str]:
    """Return what a model's own card says of its licence, as a card's fields; nothing where there is none to read."""
    import yaml

    folder = _folder(source) or _downloaded(source, "README.md")
    if folder is None:
        return {}
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[: 2**16]
        front = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
        said: Any = yaml.safe_load(front[1]) if front else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    fields = said if isinstance(said, Mapping) else {}
    return {name: fields[name] for name in TERMS if isinstance(fields.get(name), str) and len(fields[name]) < LONGEST}


def _folder(source: str) -> Path | None:
    """Return a folder of this machine; None where a text names none, or nothing that a disk could have."""
    try:
        path = Path(source).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _downloaded(name: str, file: str) -> Path | None:
    """Return the folder of the hub's downloads that holds a file of a model."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:  # no name that a hub has
        return None
    return Path(found).parent if isinstance(found, str) else None
