"""Which of a row's answers is better, how surely and by how much: pairs, rankings and labels of clean rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from preflab.data.answers import EQUAL, NO_PROMPT, Parted, parted
from preflab.data.cells import absent, missing, number, truth
from preflab.data.columns import mapping_for
from preflab.data.layout_parts import TIE, items
from preflab.data.messages import CALLS, Message, text_or_messages
from preflab.data.reading import Row, RowError


def parted_row(fields: Row, row: Row) -> tuple[Parted, list[int] | None]:
    """Return prompt and answers, best first, and their ranks if they are ranked."""
    prompt = None if missing(fields.get("prompt")) else text_or_messages(fields["prompt"])
    ranks = None
    if not missing(fields.get("responses")):
        answers, ranks = _ranked(fields)
        _needed(fields, "prompt")
    elif not missing(fields.get("completion")):
        _needed(fields, "prompt")
        answers = [text_or_messages(fields["completion"])]
    else:
        answers = [text_or_messages(_needed(fields, name)) for name in ("chosen", "rejected")]
    # An empty cell of a CSV file is no prompt, but where one is needed it is an empty one.
    given = prompt if prompt is not None or fields.get("prompt") != "" else ""
    try:
        return parted(given, answers), ranks
    except RowError as error:
        option = mapping_for(map(str, row), ("prompt",)) if str(error) == NO_PROMPT else []
        if not option:
            raise
        raise RowError(f"{error} (perhaps --columns {option[0]})") from None


def _needed(fields: Row, name: str) -> Any:
    if missing(fields.get(name)) and fields.get(name) != "":
        raise RowError(f"missing field {name!r}")
    return fields[name]


def _ranked(fields: Row) -> tuple[list[Any], list[int]]:
    """Return ranked responses best first, and each one's place (0 best, equal places tie)."""
    responses = items(fields["responses"], "responses")
    if len(responses) < 2:
        raise RowError("fewer than two responses")
    if any(missing(response) for response in responses):
        raise RowError("a response is missing among responses" if "" not in responses else "empty response")
    responses = [text_or_messages(response) for response in responses]
    if absent(fields.get("rank")):
        return responses, list(range(len(responses)))
    given = items(fields["rank"], "rank")
    if len(given) != len(responses):
        raise RowError("rank does not match responses")
    ranks = [_rank(value) for value in given]
    if min(ranks) == max(ranks):
        raise RowError(TIE)
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)))}
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return [responses[i] for i in order], [places[ranks[i]] for i in order]


def _rank(value: Any) -> float:
    try:
        found = number(value)
    except ValueError:
        raise RowError("rank holds what is no number", value) from None
    if not math.isfinite(found):
        raise RowError("rank holds what is no number", value)
    return found


def check_texts(found: Parted, ranks: Sequence[int] | None) -> None:
    """See that prompt and answers say something and differ, or raise `RowError`."""
    prompt, answers = found.prompt, found.answers
    for text in [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]:
        _check_text(text)
    if not (prompt.strip() if isinstance(prompt, str) else any(map(_says, prompt))):
        raise RowError("empty prompt")
    texts = [answer if isinstance(answer, str) else answer["content"] for answer in answers]
    for text, answer in zip(texts, answers, strict=True):
        _check_text(text)
        if not text.strip() and not (isinstance(answer, dict) and _says(answer)):
            raise RowError("empty response")
    bare = [text.strip() if isinstance(a, str) else repr(_said(a)) for text, a in zip(texts, answers, strict=True)]
    if len(bare) > 1 and bare[0] == bare[-1]:
        raise RowError(EQUAL)
    if ranks is not None and len(set(bare)) < len(bare):
        raise RowError("the same response twice in a ranking")


def _says(message: Message) -> bool:
    """Whether a message says anything, or calls a tool."""
    return bool(message["content"].strip()) or any(name in message for name in CALLS)


def _said(message: Message) -> tuple[Any, ...]:
    return (message["content"].strip(), *(message.get(name) for name in CALLS))


def _check_text(text: Any) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is legal JSON, but no tokenizer takes it
        raise RowError("not text") from None


def label_of(fields: Row) -> bool:
    """Return whether an unpaired response is desirable."""
    if absent(fields.get("label")):
        raise RowError("missing field 'label'")
    try:
        return truth(fields["label"])
    except ValueError:
        raise RowError("label is neither true nor false", fields["label"]) from None


def strength_of(extra: Row) -> dict[str, float]:
    """Return how sure (``preference``) and how strong (``margin``) a preference is, where the row says so."""
    found = {}
    for name, most in (("preference", 1.0), ("margin", math.inf)):
        if name not in extra:
            continue
        try:
            value = number(extra[name])
        except ValueError:
            value = math.nan
        if not (0 <= value <= most and math.isfinite(value)):
            raise RowError(f"{name} is not a number from 0 " + ("to 1" if most == 1 else "up"), extra[name])
        found[name] = value
    if found.get("preference", 1.0) < 0.5 and found.get("margin"):
        raise RowError("margin of a response that is not preferred")
    return found


def ordered(responses: list[str], ranks: list[int] | None, strength: dict[str, float]) -> Row:
    """Return the fields of a pair or a ranking, the likelier response first."""
    if strength.get("preference", 1.0) < 0.5:  # chosen is the likelier one, whichever the data name first
        responses, strength = responses[::-1], {**strength, "preference": 1 - strength["preference"]}
        ranks = None if ranks is None else [ranks[-1] - rank for rank in ranks[::-1]]
    found: Row = {"chosen": responses[0], "rejected": responses[-1], **strength}
    if ranks is not None:
        found["responses"] = responses
        if len(set(ranks)) < len(ranks):
            found["rank"] = ranks
    return found
