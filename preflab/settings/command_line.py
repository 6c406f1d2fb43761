"""Configs on the command line: every field an option, YAML files besides, all answered before torch is imported."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.settings.fields import Text, default_of
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.values import parse_text


class CommandLine:
    """A recipe's command line: ``--config file.yaml`` first, then overrides, then the checks.

    Every field of every config class becomes ``--field-name``. With `sections`, options of the form
    ``--section.field`` (and YAML mappings under ``section``) are collected for the caller, who knows
    which classes they belong to.

    Args:
        description: what the recipe does.
        classes: config classes by title.
        sections: whether there are any.
        defaults: values that the caller starts from in place of a class's own, for the help.
    """

    def __init__(
        self,
        description: str,
        classes: Mapping[str, type],
        *,
        sections: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
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
                    _add_option(group, field, (defaults or {}).get(field.name, default_of(field)))

    def read(self, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Return the given values by field name, and those of each ``section``.

        Names are checked here; types and bounds when the configs are built (`merge`).

        Raises:
            UserError: for an unreadable file or an unknown name.
        """
        known, rest = self.parser.parse_known_args(argv)
        given = {k: v for k, v in vars(known).items() if v is not None and k != "config"}
        hints = {n: h for cls in self.classes.values() for n, h in typing.get_type_hints(cls).items()}
        content = read_yaml(known.config) if known.config else {}
        values, sections = split(content, self.classes, str(known.config), sections=self.sections)
        for section, name, text in self._section_options(rest, set(hints)):
            sections.setdefault(section, {})[name] = Text(text)
        return values | {k: parse_text(v, hints[k], f"--{k.replace('_', '-')}") for k, v in given.items()}, sections

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


def split(
    content: Mapping[str, Any], classes: Mapping[str, type], where: str, *, sections: bool = True
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Part a YAML mapping into flat values and sections.

    Args:
        content: the mapping.
        classes: whose fields the flat values are.
        where: what to call it in messages.
        sections: whether a mapping may be a section.

    Raises:
        UserError: for a name that is neither a field nor (where there are any) a section.
    """
    hints = {n: h for cls in classes.values() for n, h in typing.get_type_hints(cls).items()}
    values: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        field = name.replace("-", "_")
        # A field and a method may share a name; a mapping is then the method's section.
        if field in values:
            raise UserError(f"{where}: {field} stands there twice, with - and with _; keep one")
        if sections and isinstance(value, dict) and get_origin(hints.get(field)) is not dict:
            found[name] = dict(value)
        elif field in hints:
            values[field] = value
        else:
            raise UserError(f"{where}: unknown field {shown(name)}{near_misses(field, hints)}")
    return values, found


class Parser(argparse.ArgumentParser):
    """argparse with our error road, so that every mistake reads the same and exits with status 2."""

    def error(self, message: str) -> typing.NoReturn:
        """Raise the complaint as a `UserError`."""
        raise UserError(f"{message}; see --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own swallows what a full disk answers.
        (file or sys.stderr).write(message or "")


def _add_option(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], default: Any) -> None:
    shown = "" if default is None or default == () else f" [default: {default}]"
    text = field.metadata.get("help", "") + shown
    flag = "--" + field.name.replace("_", "-")
    if isinstance(default, bool):
        # "--quick" alone means true; "--quick false" is how YAML's true is taken back.
        group.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=text.replace("%", "%%"))
    else:
        group.add_argument(flag, metavar=field.name.split("_")[-1].upper(), help=text.replace("%", "%%"))
