"""Write docs/schema/ from the records of `eval.records.comparison`: their JSON schemas, and a page of their fields.

python docs/make_record_page.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from preflab.eval.records.comparison import Comparison, Evaluation
from preflab.eval.records.typed import described, json_schema, records_of

FOLDER = Path(__file__).parent / "schema"
SCHEMAS = {"comparison": Comparison, "evaluation": Evaluation}
PLAIN = {str: "text", float: "number", int: "whole number", bool: "true or false", Any: "anything"}
INTRODUCTION = """<!-- Made by python docs/make_record_page.py from eval/records/; change that, not this. -->

# What comparison.json and evaluation.json hold

`comparison.json` holds a *Comparison*, `evaluation.json` an *Evaluation*. How to read them, and when a field may be
missing, stands in [report.md](../report.md#comparisonjson); [comparison.schema.json](comparison.schema.json) and
[evaluation.schema.json](evaluation.schema.json) say the same for programs.
"""


def schema(name: str) -> str:
    """Return a schema as its file holds it."""
    return json.dumps(json_schema(SCHEMAS[name]), indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """Return the page: a table of fields for every record, outer ones first."""
    every = [base for kind in records_of(Evaluation) for base in kind.__mro__ if is_dataclass(base)]
    return "\n".join([INTRODUCTION, *map(_table, dict.fromkeys(every))])


def _table(kind: type) -> str:
    own, bases = vars(kind)["__annotations__"], [base.__name__ for base in kind.__mro__[1:-1]]
    about = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    more = f" Besides what [{bases[0]}](#{bases[0].lower()}) has:" if bases else ""
    hints, told = get_type_hints(kind, include_extras=True), described(kind)
    rows = [f"| `{name}` | {_said(hints[name])} | {_code(told[name])} |" for name in own]
    return "\n".join([f"## {kind.__name__}", "", about + more, "", "| field | is | what |", "|---|---|---|", *rows, ""])


def _said(kind: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_said(get_args(arguments[0])[1])}, each a field of its own"
    if NoneType in arguments:
        return f"{_said(arguments[0])}, or null"
    if origin is tuple:
        return f"list of {_said(arguments[0])}{'s' * (arguments[0] in PLAIN)}"
    if origin is Mapping:
        return "object" if arguments[1] is Any else f"{_said(arguments[1])} by name"
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    return PLAIN.get(kind) or f"[{kind.__name__}](#{kind.__name__.lower()})"


def _code(text: str) -> str:
    return re.sub("``(.+?)``", r"`\1`", text).replace("|", "\\|")


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
    for name in SCHEMAS:
        (FOLDER / f"{name}.schema.json").write_text(schema(name), encoding="utf-8")


if __name__ == "__main__":
    main()
