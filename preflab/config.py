"""Configs: frozen dataclasses that become YAML keys and command-line options.

No torch here: a mistake in a config is answered before anything heavy is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from preflab.errors import UserError, near_misses
from preflab.plain_yaml import read_yaml
from preflab.terminal import shown
from preflab.values import convert, parse_text, within_bounds

C = TypeVar("C")


def option(default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """Declare a config field with its default, help text and (inclusive) numeric bounds."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Make a config from plain values, checking names, types and bounds.

    Args:
        cls: a dataclass whose fields were declared with `option`.
        values: field name to value, as read from YAML or given in code.
        where: what to call this config in messages, such as ``"dpo"`` or ``"config.yaml"``.

    Raises:
        UserError: for an unknown field (with near misses), a wrong type or a value out of bounds.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    checked = {}
    for name, value in values.items():
        if name not in fields:
            known = ", ".join(fields)
            raise UserError(f"{where}: unknown field {shown(name)}{near_misses(name, fields)}; known: {known}")
        checked[name] = _checked(value, hints[name], cls, fields[name], f"{where}: {name}")
    try:
        return cls(**checked)
    except (ValueError, RuntimeError) as error:  # RuntimeError: the home of nobody, as in ~nobody/run
        raise UserError(f"{where}: {error}") from None


def _checked(value: Any, hint: Any, cls: type, field: dataclasses.Field[Any], where: str) -> Any:
    given = value if isinstance(value, (list, tuple)) else (value,)
    # An empty name would mean this folder, or nothing at all, and be taken for a choice.
    if field.default != "" and any(isinstance(item, str) and not item.strip() for item in given):
        raise UserError(f"{where} is empty; give a value or leave it out")
    value = convert(value, hint, where)
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            within_bounds(item, _bound(cls, field.name, "minimum"), _bound(cls, field.name, "maximum"), where)
    return value


def _bound(cls: type, name: str, side: str) -> float | None:
    """Return a field's bound; a field that a subclass declares anew keeps what it does not say otherwise."""
    declared = (getattr(base, "__dataclass_fields__", {}).get(name) for base in cls.__mro__)
    found = (field.metadata.get(side) for field in declared if field is not None)
    return next((bound for bound in found if bound is not None), None)


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain, JSON-ready values."""
    return {k: _plain(v) for k, v in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def merge(classes: Mapping[str, type], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Share one flat mapping of values out to several configs by field name.

    A name held by several classes goes to each of them, so keep names unique unless they mean the
    same thing.

    Raises:
        UserError: for a name that no class has, and whatever `build` raises.
    """
    known = {f.name for cls in classes.values() for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}: unknown field {shown(name)}{near_misses(name, known)}")
    return {
        key: build(cls, {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}, where)
        for key, cls in classes.items()
    }


class CommandLine:
    """A recipe's command line: ``--config file.yaml`` first, then overrides, then the checks.

    Every field of every config class becomes ``--field-name``. With `sections`, options of the form
    ``--section.field`` (and YAML mappings under ``section``) are collected for the caller, who knows
    which classes they belong to.
    """

    def __init__(self, description: str, classes: Mapping[str, type], *, sections: bool = False) -> None:
        self.classes, self.sections = dict(classes), sections
        self.parser = Parser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        self.parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file; options override it")
        seen: set[str] = set()
        for title, cls in self.classes.items():
            group = self.parser.add_argument_group(title)
            for field in dataclasses.fields(cls):
                if field.name not in seen:
                    seen.add(field.name)
                    _add_option(group, field)

    def read(self, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Return the given values by field name, and those of each ``section``.

        Names are checked here; types and bounds when the configs are built (`merge`).

        Raises:
            UserError: for an unreadable file or an unknown name.
        """
        known, rest = self.parser.parse_known_args(argv)
        given = {k: v for k, v in vars(known).items() if v is not None and k != "config"}
        hints = {n: h for cls in self.classes.values() for n, h in typing.get_type_hints(cls).items()}
        values, sections = self.split(read_yaml(known.config), str(known.config)) if known.config else ({}, {})
        for section, name, text in self._section_options(rest, set(hints)):
            sections.setdefault(section, {})[name] = Text(text)
        return values | {k: parse_text(v, hints[k], f"--{k.replace('_', '-')}") for k, v in given.items()}, sections

    def split(self, content: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Part a YAML mapping into flat values and sections.

        Raises:
            UserError: for a name that is neither a field nor (where there are any) a section.
        """
        hints = {n: h for cls in self.classes.values() for n, h in typing.get_type_hints(cls).items()}
        values: dict[str, Any] = {}
        sections: dict[str, dict[str, Any]] = {}
        for name, value in content.items():
            field = name.replace("-", "_")
            # A field and a method may share a name; a mapping is then the method's section.
            if field in values:
                raise UserError(f"{where}: {field} stands there twice, with - and with _; keep one")
            if self.sections and isinstance(value, dict) and get_origin(hints.get(field)) is not dict:
                sections[name] = dict(value)
            elif field in hints:
                values[field] = value
            else:
                raise UserError(f"{where}: unknown field {shown(name)}{near_misses(field, hints)}")
        return values, sections

    def _section_options(self, rest: list[str], names: set[str]) -> list[tuple[str, str, str]]:
        found = []
        arguments = iter(rest)
        for argument in arguments:
            flag, equals, value = argument.partition("=")
            section, dot, name = flag.removeprefix("--").partition(".")
            if not (self.sections and flag.startswith("--") and dot):
                options = ["--" + n.replace("_", "-") for n in names]
                raise UserError(f"unknown option {shown(argument)}{near_misses(flag, options)}; see --help")
            if not equals:
                value = next(arguments, "")
                if not value:
                    raise UserError(f"option {shown(flag)} needs a value")
            found.append((section, name.replace("-", "_"), value))
        return found


class Text(str):
    """A value from the command line whose type is not yet known."""


def build_section(classes: Mapping[str, type], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Build the configs of one section from values that may still be command-line `Text`."""
    hints = {n: h for cls in classes.values() for n, h in typing.get_type_hints(cls).items()}
    typed = {
        k: parse_text(v, hints[k], f"{where}: {k}") if isinstance(v, Text) and k in hints else v
        for k, v in values.items()
    }
    return merge(classes, typed, where)


class Parser(argparse.ArgumentParser):
    """argparse with our error road, so that every mistake reads the same and exits with status 2."""

    def error(self, message: str) -> typing.NoReturn:
        """Raise the complaint as a `UserError`."""
        raise UserError(f"{message}; see --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own swallows what a full disk answers.
        (file or sys.stderr).write(message or "")


def _add_option(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    factory: Any = field.default_factory
    default = field.default if field.default is not dataclasses.MISSING else factory()
    shown = "" if default is None or default == () else f" [default: {default}]"
    text = field.metadata.get("help", "") + shown
    flag = "--" + field.name.replace("_", "-")
    if isinstance(default, bool):
        # "--quick" alone means true; "--quick false" is how YAML's true is taken back.
        group.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=text.replace("%", "%%"))
    else:
        group.add_argument(flag, metavar=field.name.split("_")[-1].upper(), help=text.replace("%", "%%"))
