"""Sections of settings on a command line: each of a method, or of a kind of methods."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from preflab.errors import UserError
from preflab.experiment.layers import KINDS, kind_of
from preflab.method import registry
from preflab.method.configured import config_classes, label


class MethodSections:
    """The sections of methods: what `CommandLine` asks of them."""

    def named(self, section: str) -> str:
        """Return the name of a method or a kind, however it is spelt."""
        return section.lower() if section.lower() in KINDS else registry.named(section)

    def classes(self, section: str, asked: Sequence[str]) -> Mapping[str, type] | None:
        """Return whose fields a section has: a method's configs, or those of all methods of a kind.

        Args:
            section: a registered name, a place, a class's name that `asked` has the place of, or a kind.
            asked: the methods that are asked for, in whatever spelling.

        Returns:
            The classes by title; None if there is no such section.

        Raises:
            UserError: for a method that cannot be loaded.
        """
        if section in KINDS:
            return _of_kind(section)
        name = _placed(section, asked)
        return config_classes(registry.load(name)) if ":" in name or name in registry.registered() else None

    def known(self, asked: Sequence[str]) -> list[str]:
        """Return every section that there is, where these methods are asked for."""
        return [*registry.registered(), *(label(name) for name in asked if ":" in name), *KINDS]

    def others(self, field: str) -> list[str]:
        """Return every registered method that has a field."""
        return [
            name
            for name, algorithm in _loaded().items()
            if any(field == own.name for cls in config_classes(algorithm).values() for own in dataclasses.fields(cls))
        ]

    def about(self, section: str, asked: Sequence[str]) -> str:
        """Return in a line what a section is of, where these methods are asked for."""
        if section in KINDS:
            return f"settings of all methods of a kind; each takes those that it has ({', '.join(_names(section))})"
        return in_a_line(_placed(section, asked))


def _placed(section: str, asked: Sequence[str]) -> str:
    """Return the place of a method where a section goes by its class's name."""
    return {label(name): name for name in asked if ":" in name}.get(section, section)


def in_a_line(name: str) -> str:
    """Return what a method is: the first line of its file, or its own where one file has several."""
    algorithm = registry.load(name)
    alone = sum(point.module == algorithm.__module__ for point in registry.registered().values()) < 2
    about = inspect.getdoc(sys.modules[algorithm.__module__]) if alone else None
    return (about or inspect.getdoc(algorithm) or "").partition("\n")[0]


@cache
def _loaded() -> dict[str, Any]:
    """Return the registered methods that can be loaded; of another one, whoever asks for it is told."""
    found = {}
    for name in registry.registered():
        with suppress(UserError):
            found[name] = registry.load(name)
    return found


def _names(kind: str) -> list[str]:
    return [name for name, algorithm in _loaded().items() if kind_of(algorithm) == kind]


def _of_kind(kind: str) -> dict[str, type]:
    """Return the configs of all methods of a kind, each once."""
    found: dict[type, str] = {}
    for name in _names(kind):
        for title, cls in config_classes(_loaded()[name]).items():
            found.setdefault(cls, title if title == "train" else name)
    return {title: cls for cls, title in found.items()}
