"""Typed records: frozen dataclasses as JSON, checked when they are read, and the JSON schema that they make.

Fields are ``str``, ``int``, ``float``, ``bool``, ``Any``, a ``Literal``, ``tuple[T, …]``, ``Mapping[str, T]``, a
dataclass, or one of these or None. JSON has no NaN: a ``float`` that is none is written as null, and null is read back
as NaN. A field with a default is left out where it has it. A mapping that is `INLINE` stands among the fields.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from preflab.errors.terminal import shown

INLINE = "inline"
PLAIN: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("string", (str,)),
    int: ("integer", (int,)),
    float: ("number", (int, float)),
    bool: ("boolean", (bool,)),
}
"""Of each plain type what JSON calls it, and what Python reads it as."""


# ---- writing and reading -----------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """Return a record as what JSON holds: dictionaries, lists, texts and numbers (NaN among them).

    Raises:
        ValueError: if a mapping that stands among the fields has the name of one.
    """
    if is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {}
        for name, (known, kind) in _fields(type(value)).items():
            part = vars(value)[name]
            if _inline(kind):
                found |= _apart(part, type(value))
            elif (default := _default(known)) is MISSING or part != default:
                found[name] = to_json(part)
        return found
    if isinstance(value, Mapping):
        return {str(name): to_json(part) for name, part in value.items()}
    return [to_json(part) for part in value] if isinstance(value, (list, tuple)) else value


def _apart(inline: Mapping[str, Any], kind: type) -> Any:
    """Return a mapping that stands among a record's fields, none of which it may hide."""
    hidden = sorted(inline.keys() & _fields(kind).keys())
    if hidden:
        raise ValueError(f"{hidden[0]!r} is a field of {kind.__name__}; a figure must go by another name")
    return to_json(inline)


def from_json(kind: Any, content: Any, where: str = "") -> Any:
    """Return `content` as a `kind`, every field checked.

    Raises:
        ValueError: naming the field, if one is missing, unknown or of another type.
    """
    if _inline(kind):
        kind = get_args(kind)[0]
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return content
    if origin in (Union, UnionType):
        return None if content is None else from_json(arguments[0], content, where)
    if is_dataclass(kind):
        return _fields_from_json(kind, _of(dict, content, where), where)
    if origin is tuple:
        parts = enumerate(_of(list, content, where))
        return tuple(from_json(arguments[0], part, f"{where}[{at}]") for at, part in parts)
    if origin is Mapping:
        named = _of(dict, content, where).items()
        return {name: from_json(arguments[1], part, _under(where, name)) for name, part in named}
    if origin is Literal:
        if not any(content == one and type(content) is type(one) for one in arguments):
            raise ValueError(f"{where} is {shown(content)}; it must be one of {', '.join(map(repr, arguments))}")
        return content
    if kind is float and content is None:
        return math.nan
    return _of(PLAIN[kind][1], content, where)


def _fields_from_json(kind: Any, content: dict[str, Any], where: str) -> Any:
    known = _fields(kind)
    inline = {name for name, (_, own) in known.items() if _inline(own)}
    own = {name: part for name, part in content.items() if name in known and name not in inline}
    rest = {name: part for name, part in content.items() if name not in own}
    if rest and not inline:
        raise ValueError(f"{_under(where, next(iter(rest)))} is unknown")
    found = {name: from_json(known[name][1], part, _under(where, name)) for name, part in own.items()}
    found |= {name: from_json(known[name][1], rest, where) for name in inline}
    missing = [name for name, (field, _) in known.items() if _default(field) is MISSING and name not in found]
    if missing:
        raise ValueError(f"{_under(where, missing[0])} is missing")
    return kind(**found)


def _of(types: type | tuple[type, ...], content: Any, where: str) -> Any:
    expected = types if isinstance(types, tuple) else (types,)
    if not isinstance(content, expected) or (isinstance(content, bool) and bool not in expected):
        names = " or ".join(one.__name__ for one in expected)
        raise ValueError(f"{where or 'the record'} is of type {type(content).__name__}; it must be {names}")
    return content


def _under(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


# ---- the schema --------------------------------------------------------------------------------------


def json_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of a record, with what its docstrings say."""
    kinds = records_of(kind)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_object(kind)}
    return {**schema, "$defs": {one.__name__: _object(one) for one in kinds if one is not kind}}


def records_of(kind: type) -> list[type]:
    """Return a record's type and those of all records in it, outer ones first."""
    found: dict[type, None] = {}

    def visit(one: Any) -> None:
        if isinstance(one, type) and is_dataclass(one) and one not in found:
            found[one] = None
            for _, part in _fields(one).values():
                visit(part)
        for part in get_args(one) if get_origin(one) is not Literal else ():
            visit(part)

    visit(kind)
    return list(found)


def described(kind: Any) -> dict[str, str]:
    """Return what the docstrings of a record and its bases say of each field (``Attributes:``)."""
    told: dict[str, str] = {}
    for base in reversed(inspect.getmro(kind)):
        _, _, attributes = (inspect.getdoc(base) or "").partition("Attributes:\n")
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", attributes, flags=re.MULTILINE)
        told |= {name: " ".join(text.split()) for name, text in entries}
    return {name: told[name] for name in _fields(kind)}


def _object(kind: Any) -> dict[str, Any]:
    known, told = _fields(kind), described(kind)
    inline = [own for _, own in known.values() if _inline(own)]
    properties = {
        name: {**_schema(own), "description": told[name]} for name, (_, own) in known.items() if not _inline(own)
    }
    return {
        "title": kind.__name__,
        "description": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if _default(known[name][0]) is MISSING],
        "additionalProperties": _schema(get_args(get_args(inline[0])[0])[1]) if inline else False,
    }


def _schema(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(arguments[0]), {"type": "null"}]}
    if isinstance(kind, type) and is_dataclass(kind):
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin is Literal:
        return {"enum": list(arguments)}
    return {"type": ["number", "null"]} if kind is float else {"type": PLAIN[kind][0]}


# ---- fields ------------------------------------------------------------------------------------------


@cache
def _fields(kind: type) -> dict[str, tuple[Field[Any], Any]]:
    """Return each field of a dataclass and its type, by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: (field, hints[field.name]) for field in fields(kind)}


def _default(field: Field[Any]) -> Any:
    """Return what a field is where nobody says; ``MISSING`` where it has no default."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _inline(kind: Any) -> bool:
    return get_origin(kind) is Annotated and INLINE in get_args(kind)
