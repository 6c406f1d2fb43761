"""Configs on the command line: every field an option, YAML files besides, all answered before torch is imported."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.settings.fields import Text, default_of
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.values import parse_text


class Given(NamedTuple):
    """What one place gives: values by field name, and those of each ``section``."""

    values: dict[str, Any]
    sections: dict[str, dict[str, Any]]


class Help(NamedTuple):
    """What ``--help`` says beside the fields' own texts.

    Attributes:
        values: what each field would be, by name; of others the class's own default is shown.
        more: lines below the options.
    """

    values: Mapping[str, Any]
    more: str = ""


class CommandLine:
    """A recipe's command line: ``--config file.yaml`` first, then overrides, then the checks.

    Every field of every config class becomes ``--field-name``. With `sections`, options of the form
    ``--section.field`` (and YAML mappings under ``section``) are collected for the caller, who knows
    which classes they belong to.

    Args:
        description: what the recipe does.
        classes: config classes by title.
        sections: whether there are any.
        used: says what would be used, given the file's and the options' values, for the help.
    """

    def __init__(
        self,
        description: str,
        classes: Mapping[str, type],
        *,
        sections: bool = False,
        used: Callable[[Given, Given], Help] | None = None,
    ) -> None:
        self.description, self.classes, self.sections = description, dict(classes), sections
        self.used = used or (lambda file, options: Help(file.values | options.values))

    def read(self, argv: Sequence[str] | None = None) -> Given:
        """Return what is given, options over the file's; raises as `layers` does."""
        file, options = self.layers(argv)
        sections = {
            name: {**file.sections.get(name, {}), **options.sections.get(name, {})}
            for name in {**file.sections, **options.sections}
        }
        return Given(file.values | options.values, sections)

    def layers(self, argv: Sequence[str] | None = None) -> tuple[Given, Given]:
        """Return what the file and what the options give; print the help and leave, where that is asked for.

        Names are checked here; types and bounds when the configs are built (`merge`).

        Raises:
            UserError: for an unreadable file or an unknown name.
        """
        parser = self._parser({}, ())
        known, rest = parser.parse_known_args(argv)
        texts = {k: v for k, v in vars(known).items() if v is not None and k not in ("config", "help")}
        hints = {n: h for cls in self.classes.values() for n, h in typing.get_type_hints(cls).items()}
        content = read_yaml(known.config) if known.config else {}
        file = Given(*split(content, self.classes, str(known.config), sections=self.sections))
        values = {k: parse_text(v, hints[k], f"--{k.replace('_', '-')}") for k, v in texts.items()}
        options = Given(values, {})
        for section, name, text in self._section_options(rest, set(hints)):
            options.sections.setdefault(section, {})[name] = Text(text)
        if known.help:
            shown = self.used(file, options)
            parser = self._parser(shown.values, {*file.values, *options.values}, shown.more)
            parser.print_help(sys.stdout)
            parser.exit()
        return file, options

    def _parser(self, values: Mapping[str, Any], given: Collection[str], more: str = "") -> Parser:
        """Make the parser; each option's help says what it would be, and whether somebody gave that."""
        parser = Parser(
            description=self.description,
            epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        parser.add_argument("-h", "--help", action="store_true", help="show this, for the options beside it, and leave")
        parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file; options override it")
        seen: set[str] = set()
        for title, cls in self.classes.items():
            group = parser.add_argument_group(title)
            # What a config inherits stands behind what it declares itself.
            for field in sorted(dataclasses.fields(cls), key=lambda field: field.name not in cls.__annotations__):
                if field.name not in seen:
                    seen.add(field.name)
                    value = values.get(field.name, default_of(field))
                    _add_option(group, field, f"{'given' if field.name in given else 'default'}: {as_written(value)}")
        return parser

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


def _add_option(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], value: str) -> None:
    shown = "" if value.endswith(": ") else f" [{value}]"
    text = field.metadata.get("help", "") + shown
    flag = "--" + field.name.replace("_", "-")
    if isinstance(default_of(field), bool):
        # "--quick" alone means true; "--quick false" is how YAML's true is taken back.
        group.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=text.replace("%", "%%"))
    else:
        group.add_argument(flag, metavar=field.name.split("_")[-1].upper(), help=text.replace("%", "%%"))


def as_written(value: Any) -> str:
    """Return a value as it would be written after its option; nothing for one that is not there."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value == {} else str(value)
