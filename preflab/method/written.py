"""Classes of the program that runs, a script's or a notebook's: what they are named by, and what they are made of.

A file's class is another one where anything in its file is edited. A notebook has no file, and a script's lines are
mostly about other things: of both the class itself counts, with all of the program that its functions read, through
functions and classes that they call. So an edited helper in another cell is noticed, an edited plot is not.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import inspect
import logging
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from preflab.errors import UserError
from preflab.errors.terminal import shown

PROGRAM = "__main__"
PLAIN = (str, bytes, int, float, complex, bool, type(None))
IGNORED = (ModuleType, MemberDescriptorType, GetSetDescriptorType, logging.Logger)
MADE = frozenset(
    (
        "__init__",
        "__repr__",
        "__eq__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
        "__setattr__",
        "__delattr__",
        "__replace__",
    )
)
"""Functions that `dataclass` makes where nobody wrote them, from a string that nobody keeps."""

BOOKKEEPING = frozenset(
    (
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__parameters__", "__orig_bases__"),
        *("__annotations__", "__annotations_cache__", "__annotate_func__", "__firstlineno__", "__static_attributes__"),
        *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__hash__"),
        *("__abstractmethods__", "_abc_impl", "_is_protocol"),
    )
)
"""Attributes that Python keeps for itself, or makes of others."""

IN_A_FILE = "write it into a file, and name it as FILE.py:CLASS"


def place_of_class(cls: type) -> str:
    """Return the place by which the registry finds a class: ``package.module:Class``, or ``__main__:Class``.

    Raises:
        UserError: for a class inside a function or another class, and one that its module knows no longer.
    """
    module, name = cls.__module__, cls.__name__
    if cls.__qualname__ != name:
        raise UserError(f"method {cls.__qualname__} is written inside something else; write it at the outermost level")
    if vars(sys.modules.get(module, builtins)).get(name) is not cls:
        raise UserError(
            f"method {name} is not what {module} calls so by now; give the class that it has under this name"
        )
    return f"{module}:{name}"


def is_of_the_program(place: str) -> bool:
    """Whether a place names a class of the script or notebook that runs, which no other program could import."""
    return place.startswith(f"{PROGRAM}:")


def parts_of(cls: type) -> list[str]:
    """Return all that a class of the program is made of, in an order that depends on nothing else.

    Raises:
        UserError: if a function's source cannot be read, or it reads a value of the program that has no lasting name.
    """
    found: dict[str, str] = {}
    _note_class(cls, found, cls.__name__)
    return [f"{name}\n{text}" for name, text in sorted(found.items())]


def _note_class(cls: type, found: dict[str, str], of: str) -> None:
    name = f"class {cls.__qualname__}"
    if name in found:
        return
    found[name] = ", ".join(f"{base.__module__}.{base.__qualname__}" for base in cls.__bases__)
    for base in cls.__bases__:
        if base.__module__ == PROGRAM:
            _note_class(base, found, of)
    made = MADE if "__dataclass_fields__" in vars(cls) else frozenset[str]()
    for attribute, value in vars(cls).items():
        if attribute not in BOOKKEEPING and not (attribute in made and _from_a_string(value)):
            _note(f"{cls.__qualname__}.{attribute}", value, found, of)
    # A dataclass's fields, whose values stand in keys anyway, with the bounds that they are held to.
    for field in vars(cls).get("__dataclass_fields__", {}).values():
        found[f"{cls.__qualname__}.{field.name}: field"] = f"{field.type} {field.default!r} {dict(field.metadata)!r}"


def _note(name: str, value: Any, found: dict[str, str], of: str) -> None:
    """Note a value of the program that a class reads, and all that it reads in turn."""
    if isinstance(value, (staticmethod, classmethod)):
        return _note(name, value.__func__, found, of)
    if isinstance(value, (property, functools.cached_property)):
        return _note(name, value.fget if isinstance(value, property) else value.func, found, of)
    if isinstance(value, FunctionType):
        value = inspect.unwrap(value)
        return _note_function(name, value, found, of) if isinstance(value, FunctionType) else None
    if isinstance(value, IGNORED):
        return None
    if isinstance(value, type):
        return _note_class(value, found, of) if value.__module__ == PROGRAM else None
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # What a library defines is named by its import; of numbers and texts, the value counts.
    if isinstance(value, PLAIN):
        found[name] = repr(value)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _note(f"{name}[{key!r}]", part, found, of)
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        for at, part in enumerate(parts):
            _note(f"{name}[{at}]", part, found, of)
    elif not callable(value) or type(value).__module__ == PROGRAM:
        raise UserError(
            f"method {of} reads {name}, {shown(value, 40)}, of the program around it, which no key of a result could "
            f"hold; make it a field of Config, or {IN_A_FILE}"
        )
    return None


def _note_function(name: str, function: FunctionType, found: dict[str, str], of: str) -> None:
    own = function.__globals__ is vars(sys.modules[PROGRAM])
    if name in found or not own:
        return
    try:
        source = textwrap.dedent(inspect.getsource(function))
        outside = sorted(_read_outside(source))
    except (OSError, TypeError, SyntaxError):
        raise UserError(f"method {of}: the source of {name} cannot be read; {IN_A_FILE}") from None
    if function.__code__.co_freevars and set(function.__code__.co_freevars) != {"__class__"}:
        raise UserError(f"method {of}: {name} reads variables of a function around it; {IN_A_FILE}")
    found[name] = source
    for read in outside:
        if read in function.__globals__:
            _note(read, function.__globals__[read], found, of)


def _from_a_string(value: Any) -> bool:
    return isinstance(value, FunctionType) and inspect.unwrap(value).__code__.co_filename == "<string>"


def _read_outside(source: str) -> Iterator[str]:
    """Yield the names that a function's source reads and does not define."""
    tables = [symtable.symtable(source, "source", "exec")]
    for table in tables:
        tables += table.get_children()
        yield from (s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced())
