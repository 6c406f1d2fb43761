"""Methods by name, through the entry-point group ``preflab.algorithms``.

The built-in methods and a third party's package take the same road. A method that is not installed
can be named by its place: ``package.module:Class`` or ``path/to/file.py:Class``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from preflab.disk.digests import digest
from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.method import advantages_and_ratios, maths
from preflab.method.plugins import blamed, file_exists
from preflab.method.validation import check_method
from preflab.method.written import PROGRAM, parts_of

logger = logging.getLogger(__name__)

GROUP = "preflab.algorithms"


@cache
def registered() -> dict[str, EntryPoint]:
    """Return every registered method by name, without importing any.

    Raises:
        UserError: if two packages register the same name for different objects.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"method {point.name!r} is registered twice: {_owner(other)} and {_owner(point)}; uninstall one"
            )
    return found


def _owner(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "unknown package"
    return f"{point.value} of {package}"


def named(name: str) -> str:
    """Return the registered name that is meant, in whatever case and with or without dashes; another name as it is."""
    if ":" in name or name in registered():
        return name
    return next((known for known in registered() if _letters(known) == _letters(name)), name)


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def load(name: str) -> Any:
    """Return the algorithm class for a registered name or a ``module:Class`` place.

    Raises:
        UserError: for an unknown name (with near misses), a module that does not import, or an
            object that does not keep the contract of `preflab.method.contract.Algorithm`.
    """
    if ":" in name:
        algorithm = import_object(name)
        check_method(name, algorithm)
        return algorithm
    points = registered()
    if name not in points:
        hint = near_misses(name, points) or "; is preflab installed (pip install -e .)?" * (not points)
        if name.endswith(".py"):
            hint = "; of a file, the class is named too: FILE.py:CLASS"
        raise UserError(f"unknown method {name!r}{hint}; known: {', '.join(points)}")
    with blamed(f"method {name!r} ({_owner(points[name])}) cannot be imported:"):
        algorithm = points[name].load()
    check_method(name, algorithm)
    return algorithm


def load_all(names: Iterable[str]) -> list[Any]:
    """Return the classes of all registered methods and of some named ones.

    A registered one that nobody named, and that cannot be loaded, is left out with a warning.

    Raises:
        UserError: as `load` does, for a named one.
    """
    found = [load(name) for name in names]
    for name in registered().keys() - set(names):
        try:
            found.append(load(name))
        except UserError as error:
            logger.warning("left out: %s", error)
    return found


def import_object(place: str) -> Any:
    """Import ``package.module:name`` or ``path/to/file.py:name``.

    Raises:
        UserError: if the file, module or name does not exist.
    """
    where, _, name = place.rpartition(":")
    if not where or not name:
        raise UserError(f"{place!r} must have the form package.module:name or file.py:name")
    with blamed(f"{place!r}: module cannot be imported:"):
        module = _import_file(Path(where).expanduser()) if where.endswith(".py") else importlib.import_module(where)
        try:
            return getattr(module, name)
        except AttributeError:
            raise UserError(f"{place!r}: {where} has no {name!r}{near_misses(name, vars(module))}") from None


def _import_file(path: Path) -> Any:
    if not file_exists(path):
        raise UserError(f"file {shown(str(path))} does not exist")
    # Two files may have one name, and must not be taken for each other.
    number = digest(str(path.resolve()), 8)
    spec = importlib.util.spec_from_file_location(f"preflab_method_{path.stem}_{number}", path)
    assert spec is not None  # a .py file always has a spec and a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and `get_type_hints` look the module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def source_hash(algorithm: type) -> str:
    """Return 12 hex digits of the files a method and its bases are written in: an edited method is another one.

    The functions that methods are made of count for all of them. Of a class of the script or notebook that runs, it
    counts itself (see `preflab.method.written`).

    Raises:
        UserError: as `preflab.method.written.parts_of` does.
    """
    written: list[Any] = [cls for cls in algorithm.__mro__ if cls.__module__ not in ("builtins", "typing", PROGRAM)]
    paths = {inspect.getsourcefile(thing) for thing in (*written, maths, advantages_and_ratios)}
    sources = [Path(path).read_bytes() for path in paths if path]
    if algorithm.__module__ == PROGRAM:
        sources += [part.encode() for part in parts_of(algorithm)]
    return digest(b"\0".join(sorted(sources)), 12)
