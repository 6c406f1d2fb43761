"""Untrusted text and numbers, made fit for a page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import is_dataclass, replace
from typing import Any, TypeGuard

from markupsafe import Markup

from preflab.eval.comparison.sentences import p_digits

LONGEST = 20_000  # characters of one text on the page

# Control characters other than tab and line feed; whatever changes the direction of text or hides in it; separators
# that end a line in old scripts; halves of surrogate pairs, which no file can hold. Joiners that scripts and emoji
# need (U+200C, U+200D) stay.
_MARKED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)


def visible(text: object, longest: int = LONGEST) -> str:
    """Return `text` with control, direction and hidden characters shown as marks, cut where it is very long."""
    string = str(text)
    cut = len(string) - longest
    marked = _MARKED.sub(lambda match: f"‹U+{ord(match[0]):04X}›", string[:longest])
    return f"{marked} … ({cut:,} more characters)" if cut > 0 else marked


def clean(value: Any) -> Any:
    """Return data or a record with every string, keys included, made `visible`; in data, NaN and the like as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{n: part if isinstance(part, float) else clean(part) for n, part in vars(value).items()}
        )
    if isinstance(value, dict):
        return {visible(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(clean, value))
    if isinstance(value, str):
        return visible(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def embedded(data: Any) -> Markup:
    """Return JSON that is safe inside ``<script type="application/json">``: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    # Within JSON these characters stand in strings alone, where the escape means the same.
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text))


def finite(value: Any) -> TypeGuard[float]:
    """Return whether `value` is a number that can be drawn or printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def p_value(p: Any) -> str:
    """Return ``"p = 0.012"``, or ``"p < 0.001"``."""
    if not finite(p):
        return ""
    said = "p < 0.001" if p < 0.001 else f"p = {p_digits(p, 3)}" if p < 0.1 else f"p = {p:.2f}"
    return said.replace(" ", "\u00a0")  # no line breaks in it
