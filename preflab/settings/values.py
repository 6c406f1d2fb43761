"""Values of configs: from YAML, a command line or code to the type that a field is annotated with, within bounds."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from preflab.errors import UserError
from preflab.errors.terminal import shown

LARGEST: dict[type, float] = {int: 2**31 - 1, float: 1e12}
"""What no number of a config is past, where its field says nothing narrower."""

LARGEST_SEED = 2**32 - 1
"""The last one that NumPy takes."""

LONGEST_TEXT = 4096  # characters, as many as a path may have
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan)", re.ASCII)


def kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows, without None."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(part for part in parts if part is not type(None))


def words(hint: Any) -> tuple[str, ...]:
    """Return the words that an annotation allows, as one writes them; none where it allows any."""
    return tuple(str(word) for kind in kinds(hint) if get_origin(kind) is Literal for word in get_args(kind))


def takes_several(hint: Any) -> bool:
    """Whether a value is a list."""
    return any(get_origin(kind) is tuple for kind in kinds(hint))


def is_switch(hint: Any) -> bool:
    """Whether a value is true or false, which its name alone says."""
    return bool in kinds(hint)


def within_bounds(value: float, low: float | None, high: float | None, where: str) -> None:
    """Refuse a number outside a field's bounds, or outside those that every field has."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}; it must be a finite number")
    most = LARGEST[type(value)]
    least, largest = -most if low is None else low, most if high is None else high
    if least <= value <= largest:
        return
    low, high = (least if value < least else low), (largest if value > largest else high)
    bounds = (f"at {side} {bound}" for side, bound in (("least", low), ("most", high)) if bound is not None)
    raise UserError(f"{where} is {shown(value)}; it must be {' and '.join(bounds)}")


def convert(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotated type, or raise a `UserError` that names both."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _of_union(value, args, lambda kind: convert(value, kind, where))
    if hint is Any:
        return _plain_value(value, where)
    if origin is Literal:
        if value in args:
            return value
        raise UserError(f"{where} is {shown(value)}; choose one of {', '.join(map(str, args))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(convert(v, args[0], where) for v in value)
    if origin is dict and isinstance(value, Mapping):
        return {_text(str(k), where): convert(v, args[1], f"{where}: {shown(k)}") for k, v in value.items()}
    if hint is Path and isinstance(value, (str, Path)):
        return Path(_text(str(value), where))
    if hint is str and isinstance(value, str):
        return _text(value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # which no bound lets through
    # YAML 1.1 reads 1e-4 (no dot) as a string; people write it all the time.
    if hint is float and isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = getattr(hint, "__name__", None) or str(hint)
    kind = "str" if isinstance(value, str) else type(value).__name__
    raise UserError(f"{where} is {shown(value)} ({kind}); it must be of type {wanted}{_way_out(value, hint)}")


def _of_union(value: Any, args: tuple[Any, ...], read: Callable[[Any], Any]) -> Any:
    """Read a value of several types: one beside None, and maybe words besides, as in ``int | Literal["auto"]``."""
    allowed = [arg for arg in args if arg is not type(None)]
    literal = [word for kind in allowed if get_origin(kind) is Literal for word in get_args(kind)]
    if value in literal:
        return value
    other = next((kind for kind in allowed if get_origin(kind) is not Literal), None)
    if other is None:
        return read(allowed[0])
    try:
        return read(other)
    except UserError as error:
        raise UserError(f"{error}{''.join(f', or {word}' for word in literal)}") from None


def _way_out(value: Any, hint: Any) -> str:
    """Return what to write in place of a value that is nearly right."""
    if hint is int and isinstance(value, float) and value.is_integer():
        return f": write {value:.0f}"
    if hint is str and isinstance(value, (bool, int, float)):
        return ": put it in quotes"
    if hint in (int, bool) and isinstance(value, str):
        return ", without quotes"
    return ""


def _text(value: str, where: str) -> str:
    """Return text that files and records can hold."""
    if len(value) > LONGEST_TEXT:
        raise UserError(f"{where} is {shown(value)}: {len(value):,} characters are more than a name or path has")
    if "\0" in value or (not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise UserError(f"{where} is {shown(value)}, which holds what is no text (a NUL, or bytes that are not UTF-8)")
    return value


def _plain_value(value: Any, where: str) -> Any:
    """Return a value of no fixed type, if records can hold it."""
    if isinstance(value, (list, tuple)):
        return [_plain_value(v, where) for v in value]
    if isinstance(value, Mapping):
        return {_text(str(k), where): _plain_value(v, f"{where}: {shown(k)}") for k, v in value.items()}
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        within_bounds(value, -(2.0**63), 2.0**63, where)
        return value
    raise UserError(f"{where} is {shown(value)} ({type(value).__name__}); it must be text, a number, or a list of such")


def parse_text(text: str, hint: Any, where: str) -> Any:
    """Read a command-line string as the annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in args:
            return None
        return _of_union(text, args, lambda kind: parse_text(text, kind, where))
    if origin is tuple:
        return tuple(parse_text(part.strip(), args[0], where) for part in text.split(",") if part.strip())
    if hint is bool:
        lowered = text.lower()
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise UserError(f"{where} is {shown(text)}; it must be true or false")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{where} is {shown(text)}; it must be of type {hint.__name__}") from None
    if origin is Literal and text not in args:
        return next((a for a in args if str(a) == text), text)
    return text
