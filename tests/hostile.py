"""Texts that try to break out of a report, and a comparison in which every text is one of them."""

from __future__ import annotations

from typing import Any

from report_fixture import METHODS, SUBSETS

CHOICES = ("kind", "verdict", "severity", "law", "over", "objective")  # of a few words; others are refused
HOSTILE = {
    "script": "<script>window.canary = 1</script>",
    "end": "</script></style></title><script>window.canary = 1; alert(1)</script>",
    "image": "\"><img src=x onerror='window.canary = 1; alert(1)'>",
    "cdata": "]]><svg onload=window.canary=1><a href=javascript:alert(1)>",
    "template": "{{7*7}}{% for x in ().__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "bidi": "safe \u202e gnp.exe \u2066 \u200f",
    "control": "a\x00b\x1b[31mc\x7f\u2028d\ud800e",
    "mathtext": r"_$\frac{}$ \input{/etc/passwd} %",
    "comment": "<!--<script>",
}


def poisoned(value: Any, text: str) -> Any:
    """Return `value` with `text` behind every string in it that may be any, names of methods and parts included."""
    if isinstance(value, dict):
        return {
            key + text if key in (*METHODS, *SUBSETS) else key: v
            if key in CHOICES and isinstance(v, str)
            else poisoned(v, text)
            for key, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(v, text) for v in value]
    return value + text if isinstance(value, str) else value
