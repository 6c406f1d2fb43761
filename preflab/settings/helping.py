"""``--help`` in three depths: what people change, everything, and the settings of methods."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.settings.fields import default_of, flag, hints_of
from preflab.settings.sections import Sections
from preflab.settings.values import is_switch, kinds, takes_several, words

ALL = "all"
TITLES = {"config": "its own settings", "train": "its training"}
NARROWEST, WIDEST = 80, 120
INDENT = 26
LONGEST_FLAG = 34
LONGEST_CHOICES = 28  # in the short help, which names the kind of a value where its choices take more room


class Used(NamedTuple):
    """What would be used, for the help.

    Attributes:
        values: what each field would be, by name; of others the class's own default is shown.
        meant: what ``auto``, or nothing, stands for in some of them.
        methods: what would be trained.
        settings: of a method, what each of its fields would be, and what some stand for.
        lines: of each of these methods that has options in a section, its settings in a line.
        note: what must be said of all this.
    """

    values: Mapping[str, Any]
    meant: Mapping[str, Any] = {}
    methods: Sequence[str] = ()
    settings: Callable[[str], tuple[Mapping[str, Any], Mapping[str, Any]]] = lambda method: ({}, {})
    lines: Sequence[str] = ()
    note: str = ""


class Page(NamedTuple):
    """What a command's help is made of; `CommandLine` says what each is."""

    description: str
    classes: Mapping[str, type]
    often: Mapping[str, Sequence[str]]
    sections: Sections | None
    flat: str | None


class Option(NamedTuple):
    """An option as the help shows it.

    Attributes:
        flag: how it is written.
        hint: the type of its value.
        text: what it is.
        value: what it would be, and who says so.
        brief: what it is, in a few words.
    """

    flag: str
    hint: Any
    text: str
    value: str
    brief: str = ""

    @property
    def taken(self) -> str:
        """What it takes: its choices, or the kind of its value."""
        several = " …" * takes_several(self.hint)
        if named := words(self.hint):
            return "|".join([*self._kinds(), *named]) + several
        return "".join(self._kinds()) + several

    def _kinds(self) -> list[str]:
        names = {int: "N", float: "X"}
        found = [names.get(kind, self.flag.rpartition("-")[2].upper()) for kind in kinds(self.hint)]
        return [] if is_switch(self.hint) or (words(self.hint) and len(kinds(self.hint)) == 1) else found[:1]


def help_text(page: Page, topics: Sequence[str], used: Used, given: Collection[str]) -> str:
    """Return a help text.

    Args:
        page: what it is made of.
        topics: what it is to be about: nothing, ``all``, or methods.
        used: what would be used.
        given: fields that a file or options set.

    Raises:
        UserError: for another topic.
    """
    width = min(max(shutil.get_terminal_size((100, 24)).columns, NARROWEST), WIDEST)
    if topics and list(topics) != [ALL]:
        return "\n\n".join(_method(page, topic, used, width) for topic in topics)
    options = _options(page.classes, used, given)
    return _whole(page, options, used, width) if topics or not page.often else _short(page, options, used, width)


def as_written(value: Any) -> str:
    """Return a value as it would be written after its option; nothing for one that is not there."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value == {} else str(value)


# ---- pages -------------------------------------------------------------------------------------------


def _short(page: Page, options: Mapping[str, Option], used: Used, width: int) -> str:
    """Return what people change, each in a line."""
    what, examples, _ = _told(page.description)
    chosen = {group: [options[name] for name in names if name in options] for group, names in page.often.items()}
    column = 4 + max(len(f"{option.flag} {_brief(option)}") for group in chosen.values() for option in group)
    groups = [
        "\n".join([f"{group}:", *(_line(option, min(column, LONGEST_FLAG), width) for option in found)])
        for group, found in chosen.items()
        if found
    ]
    more = [f"--help {ALL}: all {len(options)} options, with what each does and may be"]
    if page.sections is not None:
        more.append("--help METHOD …: the settings of methods (--METHOD.FIELD), as they would be used here")
    said = _said(used, [line if len(line) <= width else f"{line[: width - 2]} …" for line in used.lines])
    return "\n\n".join(
        filter(None, [_usage(), what, "\n".join(examples[:3]), "\n".join(groups), said, "\n".join(more)])
    )


def _whole(page: Page, options: Mapping[str, Option], used: Used, width: int) -> str:
    """Return every option with all that is to be said of it, by where it belongs."""
    what, examples, rest = _told(page.description)
    help_about = "all, or METHOD …" if page.sections is not None else "this text"
    first = [
        *_full(Option("--help", bool, f"{help_about}; for the options beside it", ""), width),
        *_full(Option("--config", Path, "YAML file with these settings; options override it", ""), width),
    ]
    groups = ["\n".join(["help and files:", *first])]
    seen: set[str] = set()
    for title, cls in page.classes.items():
        names = [field.name for field in _in_order(cls) if field.name not in seen]
        seen.update(names)
        lines = [line for name in names for line in _full(options[name], width)]
        groups += ["\n".join([f"{title}:", *lines])] if lines else []
    return "\n\n".join(filter(None, [_usage(), what, "\n".join(examples), *rest, *groups, _said(used, used.lines)]))


def _said(used: Used, lines: Sequence[str]) -> str:
    """Return what is said below the options."""
    title = ["methods, as they would be used (--METHOD.FIELD changes them):"] if lines else []
    return "\n".join(filter(None, [used.note, *title, *lines]))


def _method(page: Page, topic: str, used: Used, width: int) -> str:
    """Return the settings of a method, as they would be used."""
    section = page.sections.named(topic) if page.sections is not None else topic
    classes = page.sections.classes(section, used.methods) if page.sections is not None else None
    if page.sections is None or classes is None:
        known = [ALL, *(page.sections.known(used.methods) if page.sections is not None else ())]
        raise UserError(f"--help {shown(topic)}: there is no such method{near_misses(topic, known)}")
    values, meant = used.settings(section)
    prefix = "" if section == page.flat else section
    groups = [f"{section}: {page.sections.about(section, used.methods)}"]
    for title, cls in classes.items():
        lines = [f"{TITLES.get(title, title)}:"]
        for field in _in_order(cls):
            hint = hints_of({title: cls})[field.name]
            value = f"here: {_written(values, meant, field.name)}" if field.name in values else ""
            lines += _full(Option(flag(field.name, prefix), hint, field.metadata.get("help", ""), value), width)
        groups.append("\n".join(lines))
    return "\n\n".join(groups)


def _told(description: str) -> tuple[str, list[str], list[str]]:
    """Return what a description says first, its examples (indented lines), and its further paragraphs."""
    what, *rest = [part for part in description.strip("\n").split("\n\n") if part.strip()] or [""]
    examples = [part for part in rest if all(line.startswith("  ") for line in part.splitlines())]
    lines = [line.rstrip() for part in examples for line in part.splitlines()]
    return what, lines, [part.strip() for part in rest if part not in examples]


def _usage() -> str:
    return f"usage: {Path(sys.argv[0]).name} [options]"


# ---- options -----------------------------------------------------------------------------------------


def _options(classes: Mapping[str, type], used: Used, given: Collection[str]) -> dict[str, Option]:
    """Return every option with what it would be; the first class that has a field says what it is."""
    found: dict[str, Option] = {}
    for title, cls in classes.items():
        hints = hints_of({title: cls})
        for field in _in_order(cls):
            values = {field.name: default_of(field), **used.values}
            said = f"{'given' if field.name in given else 'default'}: {_written(values, used.meant, field.name)}"
            text, brief = (field.metadata.get(part, "") for part in ("help", "brief"))
            found.setdefault(field.name, Option(flag(field.name), hints[field.name], text, said, brief))
    return found


def _in_order(cls: type) -> Iterable[dataclasses.Field[Any]]:
    """Return a config's fields: what it inherits stands behind what it declares itself."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)  # type: ignore[arg-type]
    return sorted(fields, key=lambda field: field.name not in cls.__annotations__)


def _written(values: Mapping[str, Any], meant: Mapping[str, Any], name: str) -> str:
    """Return a field's value, and what that stands for where it is not the same."""
    value, stands_for = values[name], meant.get(name)
    if stands_for is None or stands_for == value:
        return as_written(value)
    return ", which is ".join(filter(None, (as_written(value), as_written(stands_for))))


def _value(option: Option) -> str:
    return "" if not option.value or option.value.endswith(": ") else f"[{option.value}]"


def _brief(option: Option) -> str:
    several = " …" * takes_several(option.hint)
    return option.taken if len(option.taken) <= LONGEST_CHOICES else option.flag.rpartition("-")[2].upper() + several


def _line(option: Option, column: int, width: int) -> str:
    """Return an option in one line: the first thing that is said of it, and its value."""
    head, value = f"  {option.flag} {_brief(option)}".rstrip().ljust(column), _value(option)
    room = max(width - len(head) - len(value) - 2, 12)
    said = textwrap.shorten(option.brief or option.text.partition("; ")[0], room, placeholder=" …")
    return f"{head} {said} {value}".rstrip()


def _full(option: Option, width: int) -> list[str]:
    """Return an option with all that is said of it."""
    head = f"  {option.flag} {option.taken}".rstrip()
    text = textwrap.wrap(f"{option.text} {_value(option)}".strip(), width - INDENT, break_on_hyphens=False)
    lines = [" " * INDENT + line for line in text]
    if len(head) < INDENT and lines:
        return [head.ljust(INDENT) + lines[0].strip(), *lines[1:]]
    return [head, *lines]
