"""Configs: frozen dataclasses that become YAML keys and command-line options.

No torch here: a mistake in a config is answered before anything heavy is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from preflab.errors import HelpShown, UserError, near_misses

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
            raise UserError(f"{where}: unknown field {name!r}{near_misses(name, fields)}; known: {', '.join(fields)}")
        checked[name] = _checked(value, hints[name], fields[name], f"{where}: {name}")
    try:
        return cls(**checked)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _checked(value: Any, hint: Any, field: dataclasses.Field[Any], where: str) -> Any:
    value = _convert(value, hint, where)
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    if value != value or (low is not None and value < low) or (high is not None and value > high):
        bounds = (f"at {side} {bound}" for side, bound in (("least", low), ("most", high)) if bound is not None)
        raise UserError(f"{where} is {value}; it must be {' and '.join(bounds) or 'a number'}")
    return value


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotated type, or raise a `UserError` that names both."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if hint is Any:
        return value
    if origin is Literal:
        if value in args:
            return value
        raise UserError(f"{where} is {value!r}; choose one of {', '.join(map(str, args))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(v, args[0], where) for v in value)
    if origin is dict and isinstance(value, Mapping):
        return {k: _convert(v, args[1], where) for k, v in value.items()}
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    # YAML 1.1 reads 1e-4 (no dot) as a string; people write it all the time.
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = getattr(hint, "__name__", None) or str(hint)
    raise UserError(f"{where} is {value!r} ({type(value).__name__}); it must be of type {wanted}")


def parse_text(text: str, hint: Any, where: str) -> Any:
    """Read a command-line string as the annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null"):
            return None
        return parse_text(text, next(a for a in args if a is not type(None)), where)
    if origin is tuple:
        return tuple(parse_text(part.strip(), args[0], where) for part in text.split(",") if part.strip())
    if hint is bool:
        lowered = text.lower()
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise UserError(f"{where} is {text!r}; it must be true or false")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{where} is {text!r}; it must be of type {hint.__name__}") from None
    if origin is Literal and text not in args:
        return next((a for a in args if str(a) == text), text)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: if the file is missing, is not YAML, or is not a mapping.
    """
    import yaml

    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        at = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"config file {path} is not readable YAML: {at}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} is not readable YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise UserError(f"config file {path} must hold a mapping of names to values")
    return content


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
            raise UserError(f"{where}: unknown field {name!r}{near_misses(name, known)}")
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
            if self.sections and isinstance(value, dict) and get_origin(hints.get(field)) is not dict:
                sections[name] = dict(value)
            elif field in hints:
                values[field] = value
            else:
                raise UserError(f"{where}: unknown field {name!r}{near_misses(field, hints)}")
        return values, sections

    def _section_options(self, rest: list[str], names: set[str]) -> list[tuple[str, str, str]]:
        found = []
        arguments = iter(rest)
        for argument in arguments:
            flag, equals, value = argument.partition("=")
            section, dot, name = flag.removeprefix("--").partition(".")
            if not (self.sections and flag.startswith("--") and dot):
                options = ["--" + n.replace("_", "-") for n in names]
                raise UserError(f"unknown option {argument!r}{near_misses(flag, options)}; see --help")
            if not equals:
                value = next(arguments, "")
                if not value:
                    raise UserError(f"option {flag} needs a value")
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

    def exit(self, status: int = 0, message: str | None = None) -> typing.NoReturn:
        """Leave after ``--help``; argparse's only other way out is `error`."""
        raise HelpShown(status)


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
