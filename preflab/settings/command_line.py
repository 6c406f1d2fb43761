"""Configs on the command line: every field an option, YAML files besides, all answered before torch is imported."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from preflab.errors import Shown, UserError, near_misses
from preflab.errors.terminal import printable, shown
from preflab.settings.fields import Text, flag, hints_of, marked
from preflab.settings.habits import FALSE, HABITS, TRUE, Habit
from preflab.settings.helping import Page, Used, help_text
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.sections import Sections
from preflab.settings.values import is_switch, parse_text, takes_several

logger = logging.getLogger(__name__)

OPTION = re.compile(r"--?[^-\d.\s]|--$")
"""How an option begins; -1 and -.5 are values."""

HELP, CONFIG = ("help", "h"), "config"


class Given(NamedTuple):
    """What one place gives: values by field name, and those of each ``section``."""

    values: dict[str, Any]
    sections: dict[str, dict[str, Any]]


class Spoken(NamedTuple):
    """An option as it was written, and the words behind it."""

    written: str
    given: list[str]

    @property
    def name(self) -> str:
        """The field that it would be of."""
        return self.written.lstrip("-").replace("-", "_")


class CommandLine:
    """A recipe's command line: ``--config file.yaml`` first, then overrides, then the checks.

    Every field of every config class becomes ``--field-name``. With `sections`, options of the form
    ``--section.field`` (and YAML mappings under ``section``) are collected for the caller.

    Args:
        description: what the recipe does: a line, examples as indented lines, more.
        classes: config classes by title.
        sections: those that there are, if any.
        often: the fields that people change, by what they are about; the short help has these alone.
        used: says what would be used, given the file's and the options' values, for the help and for advice.
        flat: the section whose settings are options without a prefix.
    """

    def __init__(
        self,
        description: str,
        classes: Mapping[str, type],
        *,
        sections: Sections | None = None,
        often: Mapping[str, Sequence[str]] | None = None,
        used: Callable[[Given, Given], Used] | None = None,
        flat: str | None = None,
    ) -> None:
        self.classes, self.sections, self.flat = dict(classes), sections, flat
        self.page = Page(description, self.classes, dict(often or {}), sections, flat)
        self.used = used or (lambda file, options: Used(file.values | options.values))
        self.hints, self.adding = hints_of(self.classes), marked(self.classes, "adds")

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
            Shown: once the help is.
        """
        spoken = parted(sys.argv[1:] if argv is None else argv)
        topics, rest, path = None, list[Spoken](), dict[str, str]()
        for option in spoken:
            if option.name in HELP:
                topics = option.given
            elif option.name == CONFIG:
                keep(path, CONFIG, Path, option)
            else:
                rest.append(option)
        content = read_yaml(Path(path[CONFIG])) if path else {}
        file = Given(*split(content, self.classes, path.get(CONFIG, ""), sections=self.sections is not None))
        options = self._read(rest, file)
        if topics is not None:
            print(printable(help_text(self.page, topics, self.used(file, options), {*file.values, *options.values})))
            raise Shown(0)
        return file, options

    def _read(self, spoken: Sequence[Spoken], file: Given) -> Given:
        """Return what the options give."""
        options, texts = Given({}, {}), dict[str, str]()
        unknown: list[Spoken] = []
        for option in spoken:
            found = resolved(option, self.hints)
            if found is None:
                unknown.append(option)
                continue
            name, option = found
            keep(texts, name, self.hints[name], option, adds=name in self.adding)
            options.values[name] = parse_text(texts[name], self.hints[name], option.written)
        for option in unknown:
            if self.sections is None or "." not in option.name:
                raise UserError(self._advice(option, file, options))
            section, name, hint, option = self._of_section(option, self.sections, file, options)
            keep(texts, flag(name, section), hint, option)
            options.sections.setdefault(section, {})[name] = Text(texts[flag(name, section)])
        return options

    def _of_section(
        self, option: Spoken, sections: Sections, file: Given, options: Given
    ) -> tuple[str, str, Any, Spoken]:
        """Return section, field and its type of ``--section.field``, and the option with values as ours are written."""
        section, _, name = option.written.lstrip("-").rpartition(".")
        section, name = sections.named(section), name.replace("-", "_")
        asked = self._asked(file, options)
        classes = sections.classes(section, asked)
        if classes is None:
            if name in self.hints:
                raise UserError(f"unknown section {shown(section)}: {name} is a setting of the run; write {flag(name)}")
            close = near_misses(section, sections.known(asked))
            raise UserError(f"unknown section {shown(section)}{close} in {shown(option.written)}")
        hints = hints_of(classes)
        found = resolved(Spoken(f"--{name}", option.given), hints)
        if found is None and name in self.hints:
            raise UserError(
                f"{section}: unknown field {shown(name)}, which is a setting of the run; write {flag(name)}"
            )
        if found is None:
            close = near_misses(name, hints, lambda field: repr(flag(field, section)))
            raise UserError(f"{section}: unknown field {shown(name)}{close}; --help {section} shows what it has")
        name, own = found
        return section, name, hints[name], own._replace(written=option.written)

    def _asked(self, file: Given, options: Given) -> list[str]:
        """Return the methods that file and options name; layers below them may name more."""
        values = file.values | options.values
        found = [values[name] for name in marked(self.classes, "methods") & values.keys()] + [self.flat or ()]
        return [name for value in found for name in ([value] if isinstance(value, str) else value)]

    def _advice(self, option: Spoken, file: Given, options: Given) -> str:
        """Return what is wrong with an option that there is not, and where it may belong."""
        name, unknown = option.name.rpartition(".")[2], f"unknown option {shown(option.written)}"
        name = HABITS[name].field or name if name in HABITS else name
        candidates = {field: flag(field) for field in self.hints}
        if self.sections is None:
            return f"{unknown}{near_misses(name, candidates, lambda near: repr(candidates[near]))}; see --help"
        methods = [method for method in self.used(file, options).methods if method != self.flat]
        fields = {method: hints_of(self.sections.classes(method, methods) or {}) for method in methods}
        if having := [flag(name, method) for method in methods if name in fields[method]]:
            return f"{unknown}: it is a setting of a method; write {' or '.join(having)}"
        if others := [other for other in self.sections.others(name) if other != self.flat]:
            listed, more = ", ".join(others[:6]), ", …" * (len(others) > 6)
            here = self.flat or " and ".join(methods)
            return f"{unknown}: it is a setting of {listed}{more}" + (f", and not of {here}" if here else "")
        for method in reversed(methods):  # what is compared before what it stands on
            candidates = {**{field: flag(field, method) for field in fields[method]}, **candidates}
        return f"{unknown}{near_misses(name, candidates, lambda near: repr(candidates[near]))}; see --help all"


def parted(argv: Sequence[str]) -> list[Spoken]:
    """Return the options of a command line, each with the words behind it.

    Raises:
        UserError: for a word that stands before them.
    """
    found: list[Spoken] = []
    for word in argv:
        if OPTION.match(word):
            written, equals, value = word.partition("=")
            found.append(Spoken(written, [value] if equals else []))
        elif found:
            found[-1].given.append(word)
        else:
            raise UserError(f"unknown option {shown(word)}: options begin with --; see --help")
    return found


def resolved(option: Spoken, hints: Mapping[str, Any]) -> tuple[str, Spoken] | None:
    """Return the field that an option is of, as it is, as ``--no-FIELD``, or by another trainer's name.

    Args:
        option: as it was written.
        hints: fields and their types.

    Returns:
        The field, and the option with values as ours are written; None if it is of no field.

    Raises:
        UserError: for another trainer's option that means nothing that we have.
    """
    name, given = option.name, option.given
    if name in hints and option.written.startswith("--"):
        return name, option
    off = name.removeprefix("no_")
    if off != name and off in hints and is_switch(hints[off]):
        if given:
            raise UserError(f"{option.written} takes no value, and {shown(given[0])} follows it")
        return off, option._replace(given=[FALSE])
    habit = HABITS.get(name, Habit())
    if habit.field in hints or habit.answer:
        ours = habit.ours(option.written, given)
        return (habit.field, option._replace(given=ours)) if habit.field in hints else None
    return None


def keep(texts: dict[str, str], name: str, hint: Any, option: Spoken, *, adds: bool = False) -> None:
    """Keep what an option gives by its name, or add it; of two the last counts otherwise, which is said.

    Raises:
        UserError: as `text_of` does.
    """
    text, before = text_of(hint, option), texts.get(name)
    if before is not None and adds:
        text = f"{before},{text}"
    elif before not in (None, text):
        logger.warning("%s is given twice; what counts is the last, %s", option.written, shown(text))
    texts[name] = text


def text_of(hint: Any, option: Spoken) -> str:
    """Return the one text that an option's words stand for.

    Raises:
        UserError: if there are too many, or none.
    """
    written, given = option
    if not given and is_switch(hint):
        return TRUE
    if not given:
        raise UserError(f"{written} needs a value")
    if takes_several(hint):
        return ",".join(given)
    if len(given) > 1:
        raise UserError(f"{written} takes one value, and {shown(given[1])} follows it")
    return given[0]


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
    hints = hints_of(classes)
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
