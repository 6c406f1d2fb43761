"""Columns of other names: what they may mean, and ``--columns``, which says what they do mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from preflab.data.cells import missing, plain
from preflab.data.layouts import BESIDE, LAYOUTS, PAIR
from preflab.data.reading import Row
from preflab.errors import UserError, near_misses

TEXTS = {"prompt", *PAIR, "responses", "completion"}

MEANT = {
    "prompt": "question instruction query input context history user_prompt user post text prompt_text problem "
    "conversations conversation messages dialogue dialog",
    "chosen": "chosen_response response_chosen answer_chosen preferred preferred_response better accepted win winner "
    "positive good answer_a response_a good_response chosen_answer",
    "rejected": "rejected_response response_rejected answer_rejected dispreferred non_preferred worse lose loser "
    "negative bad answer_b response_b bad_response rejected_answer",
    "completion": "response answer output generation",
    "label": "is_preferred desirable is_desirable kto_tag is_safe thumbs_up",
    "responses": "generations completions candidates answers",
    "rank": "ranks ranking",
    "system": "instructions persona",
    "group": "dialogue_id conversation_id thread_id group_id",
    "margin": "score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating delta score_diff",
    "preference": "probability preference_probability agreement confidence",
}
"""Our fields to names that other data has for them."""

LOOKS_LIKE = {name: field for field, names in MEANT.items() for name in names.split()}
FIELDS = tuple(dict.fromkeys((*MEANT, *BESIDE, *(n for layout in LAYOUTS for n in (*layout.needs, *layout.also)))))


def unknown_layout(row: Row) -> str:
    """Return why a row of no layout is refused: the field that is missing, and the option that would name it."""
    names = [str(name) for name, value in row.items() if not missing(value)]
    meant = next((layout for layout in LAYOUTS if {*layout.needs} <= {*row}), None)
    lost = next((name for name in meant.needs if missing(row[name])), None) if meant else None
    reason = f"missing field {lost or ('rejected' if 'chosen' in names else 'chosen')!r}"
    option = columns_for(names)
    return f"{reason} (perhaps {option})" if option else reason


def columns_for(names: Iterable[str]) -> str:
    """Return the ``--columns`` that would make one of our own formats of such columns, or ""."""
    names = list(names)
    for fields in (("prompt", *PAIR), ("prompt", "responses"), ("prompt", "completion", "label")):
        found = mapping_for(names, fields)
        if "chosen" in fields and not any(option.startswith("chosen=") for option in found):
            # Beside one that is rejected, a response is the chosen one.
            found += [f"chosen={option.partition('=')[2]}" for option in mapping_for(names, ("completion",))]
        if found and {*fields} <= {*names, *(option.partition("=")[0] for option in found)}:
            return f"--columns {','.join(found)}"
    return ""


def mapping_for(names: Iterable[str], fields: Sequence[str]) -> list[str]:
    """Return ``field=column`` for fields that are not there, where a column looks like one of them."""
    names = list(names)
    found = []
    for field in fields:
        if field not in names:
            found += [
                f"{field}={name}"
                for name in names
                if field in (name.strip().lower(), LOOKS_LIKE.get(name.strip().lower()))
            ][:1]
    return found


# ---- --columns ----------------------------------------------------------------------------------------


def parse_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return our field to the data's column for options ``field=column``.

    Raises:
        ValueError: for anything of another form, a field that does not exist, and a field or a text named twice.
    """
    found: dict[str, str] = {}
    for text in columns:
        field, equals, column = (part.strip() for part in text.partition("="))
        if not (equals and field and column):
            raise ValueError(f"columns has {text!r}; write field=column, such as prompt=question")
        if field not in FIELDS:
            raise ValueError(f"columns names the field {field!r}, which there is not{near_misses(field, FIELDS)}")
        if field in found:
            raise ValueError(f"columns names the field {field!r} twice")
        twice = next((other for other, taken in found.items() if taken == column and {field, other} <= TEXTS), None)
        if twice:
            raise ValueError(f"columns takes {twice!r} and {field!r} from one column, {column!r}")
        found[field] = column
    return found


def check_columns(columns: Mapping[str, str], names: Iterable[str], found: Collection[str], source: str) -> None:
    """See that the columns that are to be read are there.

    Args:
        columns: our fields to columns.
        names: the data's columns.
        found: fields for which some row had a value.
        source: what to call the data.

    Raises:
        UserError: if one is in no row.
    """
    names = sorted(map(str, names))
    for field, column in columns.items():
        if column not in names and field not in found:
            raise UserError(
                f"{source} has no column {column!r} (--columns {field}={column}){near_misses(column, names)}; "
                f"it has {', '.join(names[:20])}"
            )


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """Return a row whose columns have the names that ``--columns`` gives them; ``a.b`` and ``a.0`` reach inside."""
    if not columns:
        return row
    taken = set(columns.values())
    rest = {name: value for name, value in row.items() if name not in taken and name not in columns}
    return {**rest, **{field: _reached(row, column) for field, column in columns.items()}}


def _reached(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = plain(value)
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
