"""What one cell of a row holds, whichever library wrote it: nothing, a number, a truth value, a structure as text.

Text is never evaluated: what looks like a structure is read by JSON's parser, or by a small one for what Python and
numpy print, which goes no deeper than `DEEPEST` and once over the text.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

import numpy as np

ABSENT = frozenset({"", "nan", "none", "null", "<na>", "n/a"})
"""Words for "no value" in optional cells. A prompt or a response may well be the text "None"."""

DEEPEST = 64
TRUTH = {"true": True, "yes": True, "false": False, "no": False}

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")
    |(?P<number>[-+]?[0-9][0-9.eE+-]*)
    |(?P<open>array\(|[\[({])|(?P<close>(?:,\s*dtype=\w+)?[\])}])|(?P<between>[,:])
    |(?P<word>[A-Za-z]+))""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False, "nan": math.nan}


def plain(value: Any) -> Any:
    """Return numpy's arrays and scalars, and tuples, as Python's own; anything else as it is."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def missing(value: Any) -> bool:
    """Whether a cell is None, NaN, pandas' NA or NaT, or empty text."""
    if value is None or isinstance(value, str):
        return not value
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return type(value).__name__ in ("NAType", "NaTType")  # pandas need not be there


def absent(value: Any) -> bool:
    """Whether an optional cell says nothing: it is `missing`, or one of the words for it (`ABSENT`)."""
    return missing(value) or (isinstance(value, str) and value.strip().lower() in ABSENT)


def number(value: Any) -> float:
    """Return a cell as a number.

    Raises:
        ValueError: for truth values, text that is no number, and anything else.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("no number")
    try:
        return float(value)
    except OverflowError:  # an integer beyond what a float holds
        raise ValueError("no number") from None


def truth(value: Any) -> bool:
    """Return a cell as true or false: a boolean, 1 or 0 (1.0 or 0.0), or a word for one.

    Raises:
        ValueError: for anything else.
    """
    value = plain(value)
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in TRUTH:
        return TRUTH[word]
    found = number(value)
    if found not in (0.0, 1.0):
        raise ValueError("neither true nor false")
    return found == 1.0


def shown(value: Any, most: int = 40) -> str:
    """Return a cell for a message: short, and on one line."""
    text = " ".join(ascii(value)[: most * 4].split()) if not isinstance(value, str) else repr(value[:most])
    return text if len(text) <= most else text[: most - 1] + "…"


def structure(text: str) -> Any:
    """Return the list or mapping that a text is as JSON, or as Python or numpy prints it.

    Raises:
        ValueError: if it is neither, or nested deeper than `DEEPEST`.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        return _literal(text)


def _literal(text: str) -> Any:
    """Read lists, dicts and plain values; commas may be missing between items, as numpy prints them."""
    stack: list[tuple[str, list[Any]]] = [("", [])]
    at, end = 0, len(text.rstrip())
    while at < end:
        token = _TOKEN.match(text, at)
        if token is None or len(stack) > DEEPEST:
            raise ValueError(f"not readable at character {at}")
        at = token.end()
        kind, found = token.lastgroup, token[token.lastgroup or 0]
        if kind == "open":
            stack.append((found, []))
        elif kind == "close":
            opened, items = stack.pop()
            if not stack:
                raise ValueError(f"not readable at character {at}")
            stack[-1][1].append(_closed(opened, found[-1], items))
        elif kind == "text":
            stack[-1][1].append(_text(found))
        elif kind == "number":
            stack[-1][1].append(float(found) if set(found) & set(".eE") else int(found))
        elif kind == "word":
            if found not in _WORDS:
                raise ValueError(f"not readable at character {at}")
            stack[-1][1].append(_WORDS[found])
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError("no single value")
    return stack[0][1][0]


def _text(quoted: str) -> str:
    try:
        return str(ast.literal_eval(quoted))
    except SyntaxError:
        raise ValueError("not readable text") from None


def _closed(opened: str, closing: str, items: list[Any]) -> Any:
    """Return the value between two brackets."""
    if {"[": "]", "(": ")", "array(": ")", "{": "}"}[opened] != closing:
        raise ValueError("brackets do not match")
    if opened == "array(":
        if len(items) != 1:
            raise ValueError("no array")
        return items[0]
    if opened != "{":
        return items
    if len(items) % 2 or not all(isinstance(name, str) for name in items[::2]):
        raise ValueError("no mapping")
    return dict(zip(items[::2], items[1::2], strict=True))
