"""Parts of layouts: a prompt, a pair, a ranking, out of the cells of a raw row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preflab.data.cells import absent, missing, number, plain, structure, truth
from preflab.data.messages import ASSISTANT, USER, text_or_messages
from preflab.data.reading import Row, RowError

TIE = "no preference between the responses (a tie)"


def as_prompt(text: Any, *earlier: tuple[str, Any]) -> list[dict[str, Any]]:
    """Return what somebody asked as messages."""
    found = text_or_messages(text)
    if not isinstance(found, str):
        return found
    return [{"role": role, "content": said} for role, said in (*earlier, (USER, found))]


def as_pair(prompt: Any, first: Any, second: Any, first_is_better: bool | None) -> Row:
    """Return a pair whose better response is known, or raise `RowError` for a tie."""
    if first_is_better is None:
        raise RowError(TIE)
    return {
        "prompt": prompt,
        "chosen": first if first_is_better else second,
        "rejected": second if first_is_better else first,
    }


def number_of(row: Row, name: str) -> float:
    """Return a field that is a number, or raise `RowError`."""
    try:
        found = number(row[name])
    except ValueError:
        raise RowError(f"{name} is no number", row[name]) from None
    if found != found:
        raise RowError(f"{name} is NaN")
    return found


def one_of(row: Row, name: str, meaning: Mapping[float, bool | None]) -> bool | None:
    """Return what a field's number means, or raise `RowError` for one without a meaning."""
    value = plain(row[name])
    found = float(value) if isinstance(value, bool) else number_of(row, name)
    if found not in meaning:
        raise RowError(f"{name} is not {' or '.join(f'{value:g}' for value in meaning)}", row[name])
    return meaning[found]


def signed(row: Row, name: str, most: int = 3) -> bool | None:
    """Read a strength: below 0 the first response is better, above 0 the second."""
    found = number_of(row, name)
    if abs(found) > most:
        raise RowError(f"{name} is not a number from -{most} to {most}", row[name])
    return None if found == 0 else found < 0


def larger(row: Row, first: str, second: str) -> bool | None:
    """Whether the first of two fields is larger; None if they are equal."""
    one, other = number_of(row, first), number_of(row, second)
    return None if one == other else one > other


def items(value: Any, name: str) -> list[Any]:
    """Return a list, which may be written as text."""
    value = plain(value)
    if isinstance(value, str) and value.lstrip().startswith(("[", "array(")):
        try:
            value = structure(value)
        except ValueError:
            raise RowError(f"{name} is text, and no list that can be read") from None
    if not isinstance(value, list):
        raise RowError(f"{name} is not a list")
    return value


def alpaca_prompt(row: Row, name: str = "instruction") -> list[dict[str, Any]]:
    """Return an Alpaca row's prompt: instruction, its input below, earlier rounds before."""
    asked = row[name] if absent(row.get("input")) else f"{row[name]}\n{row['input']}"
    rounds = [] if missing(row.get("history")) else items(row["history"], "history")
    if any(not isinstance(said, list) or len(said) != 2 for said in rounds):
        raise RowError("history is not a list of [question, answer]")
    return as_prompt(
        asked, *((role, text) for said in rounds for role, text in zip((USER, ASSISTANT), said, strict=True))
    )


def as_ranking(prompt: Any, responses: Sequence[Any], scores: Sequence[Any], name: str) -> Row:
    """Return a ranking of responses with scores, the larger the better."""
    if len(scores) != len(responses):
        raise RowError(f"{name} does not match responses")
    return {"prompt": prompt, "responses": list(responses), "rank": [-number_of({name: s}, name) for s in scores]}


def objects(value: Any, name: str, *fields: str) -> list[Mapping[str, Any]]:
    """Return a list of objects that all have some fields, or raise `RowError`."""
    found = items(value, name)
    if not all(isinstance(item, Mapping) and all(not missing(item.get(field)) for field in fields) for item in found):
        raise RowError(f"{name} is not a list of objects with {' and '.join(fields)}")
    return found


def truth_of(row: Row, name: str) -> bool:
    """Return a field that is true or false, or raise `RowError`."""
    try:
        return truth(row[name])
    except ValueError:
        raise RowError(f"{name} is neither true nor false", row[name]) from None
