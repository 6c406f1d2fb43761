"""Columns that mean something: public layouts of preference data, read by their columns, and what others may mean.

A layout brings a raw row to the fields of the project's own formats (README, "Data formats"): ``prompt, chosen,
rejected``; ``prompt, responses, rank``; ``prompt, completion, label``; and ``system``, ``tools``, ``group``,
``subset``, ``source``, ``preference``, ``margin`` beside any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from preflab.data.cells import absent, missing, number, plain, structure, truth
from preflab.data.messages import ASSISTANT, SYSTEM, USER, text_or_messages
from preflab.data.reading import Row, RowError
from preflab.errors import UserError, near_misses

TIE = "no preference between the responses (a tie)"
SYSTEM_NAMES = ("system", "system_prompt", "system_message")
BESIDE = ("group", "subset", "source", "preference", "margin", "tools", *SYSTEM_NAMES)
"""Optional fields, read beside any layout."""


class Layout(NamedTuple):
    """One way to lay preference data out in columns.

    Attributes:
        name: what it is called in messages.
        needs: columns that a row of it has.
        read: the row in our own fields.
        also: columns that it reads where they are there.
        note: what must be said once of how it is read.
    """

    name: str
    needs: tuple[str, ...]
    read: Callable[[Row], Row]
    also: tuple[str, ...] = ()
    note: str = ""


# ---- parts of layouts --------------------------------------------------------------------------------


def _asked(text: Any, *earlier: tuple[str, Any]) -> list[dict[str, Any]]:
    """Return what somebody asked as messages."""
    found = text_or_messages(text)
    if not isinstance(found, str):
        return found
    return [{"role": role, "content": said} for role, said in (*earlier, (USER, found))]


def _pair(prompt: Any, first: Any, second: Any, first_is_better: bool | None) -> Row:
    if first_is_better is None:
        raise RowError(TIE)
    return {
        "prompt": prompt,
        "chosen": first if first_is_better else second,
        "rejected": second if first_is_better else first,
    }


def _number(row: Row, name: str) -> float:
    try:
        found = number(row[name])
    except ValueError:
        raise RowError(f"{name} is no number", row[name]) from None
    if found != found:
        raise RowError(f"{name} is NaN")
    return found


def _one_of(row: Row, name: str, meaning: Mapping[float, bool | None]) -> bool | None:
    value = plain(row[name])
    found = float(value) if isinstance(value, bool) else _number(row, name)
    if found not in meaning:
        raise RowError(f"{name} is not {' or '.join(f'{value:g}' for value in meaning)}", row[name])
    return meaning[found]


def _signed(row: Row, name: str, most: int = 3) -> bool | None:
    """Read a strength: below 0 the first response is better, above 0 the second."""
    found = _number(row, name)
    if abs(found) > most:
        raise RowError(f"{name} is not a number from -{most} to {most}", row[name])
    return None if found == 0 else found < 0


def _larger(row: Row, first: str, second: str) -> bool | None:
    one, other = _number(row, first), _number(row, second)
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


def _instruction(row: Row, name: str = "instruction") -> list[dict[str, Any]]:
    """Return an Alpaca row's prompt: instruction, its input below, earlier rounds before."""
    asked = row[name] if absent(row.get("input")) else f"{row[name]}\n{row['input']}"
    rounds = [] if missing(row.get("history")) else items(row["history"], "history")
    if any(not isinstance(said, list) or len(said) != 2 for said in rounds):
        raise RowError("history is not a list of [question, answer]")
    return _asked(asked, *((role, text) for said in rounds for role, text in zip((USER, ASSISTANT), said, strict=True)))


def _scored(prompt: Any, responses: Sequence[Any], scores: Sequence[Any], name: str) -> Row:
    """Return a ranking of responses with scores, the larger the better."""
    if len(scores) != len(responses):
        raise RowError(f"{name} does not match responses")
    return {"prompt": prompt, "responses": list(responses), "rank": [-_number({name: s}, name) for s in scores]}


def _objects(value: Any, name: str, *fields: str) -> list[Mapping[str, Any]]:
    found = items(value, name)
    if not all(isinstance(item, Mapping) and all(not missing(item.get(field)) for field in fields) for item in found):
        raise RowError(f"{name} is not a list of objects with {' and '.join(fields)}")
    return found


# ---- layouts that take more than a line ----------------------------------------------------------------


def _ultrafeedback(row: Row) -> Row:
    found = _objects(row["completions"], "completions", "response")
    name = (
        next(
            (
                name
                for name in ("fine-grained_score", "overall_score", "score", "rating")
                if not any(missing(completion.get(name)) for completion in found)
            ),
            None,
        )
        if found
        else None
    )
    if name is None:
        raise RowError("completions have no fine-grained_score, overall_score, score or rating")
    return _scored(_instruction(row), [c["response"] for c in found], [c.get(name) for c in found], name)


def _nectar(row: Row) -> Row:
    found = _objects(row["answers"], "answers", "answer", "rank")
    return {"prompt": row["prompt"], "responses": [a["answer"] for a in found], "rank": [a["rank"] for a in found]}


def _arena(row: Row) -> Row:
    named = {"model_a": True, "a": True, "model_b": False, "b": False}
    winner = str(row["winner"]).strip().lower()
    if winner not in named and not winner.startswith("tie") and winner != "both_bad":
        raise RowError("winner is not model_a, model_b or tie", row["winner"])
    first, second = (text_or_messages(row[name]) for name in ("conversation_a", "conversation_b"))
    return {k: v for k, v in _pair(None, first, second, named.get(winner)).items() if k != "prompt"}


def _rounds(asked: Sequence[Any], answered: Sequence[Any]) -> list[dict[str, Any]]:
    rounds = zip(asked, answered, strict=True)
    return [
        {"role": role, "content": text} for both in rounds for role, text in zip((USER, ASSISTANT), both, strict=True)
    ]


def _arena_flags(row: Row) -> Row:
    won = {name: truth_of(row, name) for name in ("winner_model_a", "winner_model_b")}
    asked, *answers = (items(row[name], name) for name in ("prompt", "response_a", "response_b"))
    if not len(asked) == len(answers[0]) == len(answers[1]):
        raise RowError("prompt and responses have different numbers of turns")
    first, second = (_rounds(asked, said) for said in answers)
    better = None if won["winner_model_a"] == won["winner_model_b"] else won["winner_model_a"]
    return {k: v for k, v in _pair(None, first, second, better).items() if k != "prompt"}


def truth_of(row: Row, name: str) -> bool:
    """Return a field that is true or false, or raise `RowError`."""
    try:
        return truth(row[name])
    except ValueError:
        raise RowError(f"{name} is neither true nor false", row[name]) from None


def _webgpt(row: Row) -> Row:
    question = plain(row["question"])
    asked = question.get("full_text") if isinstance(question, Mapping) else question
    return _pair(_asked(asked), row["answer_0"], row["answer_1"], _larger(row, "score_0", "score_1"))


def _two_outputs(row: Row) -> Row:
    output = plain(row["output"])
    if isinstance(output, str) and not output.lstrip().startswith("["):
        raise RowError("one 'output' and no preference: give 'chosen' and 'rejected', or 'output' as a list of two")
    return {"prompt": _instruction(row), "responses": items(output, "output")}


def _labelled_dialogue(name: str, label: str) -> Callable[[Row], Row]:
    def read(row: Row) -> Row:
        messages = text_or_messages(row[name])
        if isinstance(messages, str) or not messages or messages[-1]["role"] != ASSISTANT:
            raise RowError(f"{name} does not end with an assistant turn")
        return {"prompt": messages[:-1], "completion": messages[-1:], "label": row[label]}

    return read


def _last_turn_against(row: Row) -> Row:
    messages = text_or_messages(row["messages"])
    if isinstance(messages, str) or not messages or messages[-1]["role"] != ASSISTANT:
        raise RowError("messages does not end with an assistant turn")
    return {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": row["rejected_response"]}


def _asked_in(name: str) -> Callable[[Row], Row]:
    return lambda row: {"prompt": _asked(row[name]), "chosen": row["chosen"], "rejected": row["rejected"]}


def _own(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row[name] for name in names if name in row}


PAIR = ("chosen", "rejected")
TEXTS = {"prompt", *PAIR, "responses", "completion"}

LAYOUTS = (
    Layout("our own rankings", ("prompt", "responses", "rank"), _own("prompt", "responses", "rank")),
    Layout(
        "responses with scores",
        ("prompt", "responses", "scores"),
        lambda row: _scored(
            row["prompt"], items(row["responses"], "responses"), items(row["scores"], "scores"), "scores"
        ),
        note="responses are ranked by their scores, the larger the better",
    ),
    Layout("our own rankings", ("prompt", "responses"), _own("prompt", "responses", "rank"), ("rank",)),
    Layout("our own pairs", ("prompt", *PAIR), _own("prompt", *PAIR)),
    Layout("our own unpaired responses", ("prompt", "completion", "label"), _own("prompt", "completion", "label")),
    Layout("ShareGPT pairs", ("conversations", *PAIR), lambda row: {**_asked_in("conversations")(row)}),
    Layout("question, chosen, rejected", ("question", *PAIR), _asked_in("question")),
    Layout(
        "instruction, chosen, rejected",
        ("instruction", *PAIR),
        lambda row: {"prompt": _instruction(row), "chosen": row["chosen"], "rejected": row["rejected"]},
        ("input", "history"),
    ),
    Layout("input, chosen, rejected", ("input", *PAIR), _asked_in("input")),
    Layout("whole dialogues", PAIR, _own(*PAIR)),
    Layout(
        "query, response, rejected_response",
        ("query", "response", "rejected_response"),
        lambda row: _pair(_instruction(row, "query"), row["response"], row["rejected_response"], True),
        ("input", "history"),
    ),
    Layout("messages, rejected_response", ("messages", "rejected_response"), _last_turn_against),
    Layout(
        "messages, rejected_messages",
        ("messages", "rejected_messages"),
        lambda row: {"chosen": row["messages"], "rejected": row["rejected_messages"]},
    ),
    Layout(
        "UltraFeedback",
        ("instruction", "completions"),
        _ultrafeedback,
        note="completions are ranked by their fine-grained_score, else overall_score, score or rating; system prompts "
        "inside them are not read",
    ),
    Layout(
        "rated generations",
        ("instruction", "generations", "ratings"),
        lambda row: _scored(
            _instruction(row), items(row["generations"], "generations"), items(row["ratings"], "ratings"), "ratings"
        ),
    ),
    Layout(
        "rated generations",
        ("input", "generations", "ratings"),
        lambda row: _scored(
            _asked(row["input"]), items(row["generations"], "generations"), items(row["ratings"], "ratings"), "ratings"
        ),
    ),
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        lambda row: _pair(
            _asked(row["prompt"]),
            row["response_0"],
            row["response_1"],
            _one_of(row, "better_response_id", {0: True, 1: False}),
        ),
        note="the more helpful response is chosen (better_response_id); for the safer one add "
        "--columns better_response_id=safer_response_id",
    ),
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "safer_response_id"),
        lambda row: _pair(
            _asked(row["prompt"]),
            row["response_0"],
            row["response_1"],
            _one_of(row, "safer_response_id", {0: True, 1: False}),
        ),
        note="the safer response is chosen (safer_response_id)",
    ),
    Layout(
        "SHP",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        lambda row: _pair(
            _asked(row["history"]), row["human_ref_A"], row["human_ref_B"], _one_of(row, "labels", {1: True, 0: False})
        ),
    ),
    Layout("Nectar", ("prompt", "answers"), _nectar),
    Layout(
        "HelpSteer2 preferences",
        ("prompt", "response_1", "response_2", "preference_strength"),
        lambda row: _pair(
            _steered(row["prompt"]), row["response_1"], row["response_2"], _signed(row, "preference_strength")
        ),
    ),
    Layout(
        "HelpSteer3",
        ("context", "response1", "response2", "overall_preference"),
        lambda row: _pair(
            _asked(row["context"]), row["response1"], row["response2"], _signed(row, "overall_preference")
        ),
    ),
    Layout("arena dialogues", ("conversation_a", "conversation_b", "winner"), _arena),
    Layout(
        "arena turns",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        _arena_flags,
        ("winner_tie",),
    ),
    Layout("WebGPT comparisons", ("question", "answer_0", "answer_1", "score_0", "score_1"), _webgpt),
    Layout(
        "Stack Exchange pairs",
        ("question", "response_j", "response_k"),
        lambda row: _pair(_asked(row["question"]), row["response_j"], row["response_k"], True),
    ),
    Layout(
        "instruction, chosen_response, rejected_response",
        ("instruction", "chosen_response", "rejected_response"),
        lambda row: _pair(_instruction(row), row["chosen_response"], row["rejected_response"], True),
        ("input",),
    ),
    Layout(
        "Alpaca with a label",
        ("instruction", "output", "kto_tag"),
        lambda row: {"prompt": _instruction(row), "completion": row["output"], "label": row["kto_tag"]},
        ("input", "history"),
    ),
    Layout("Alpaca with two outputs", ("instruction", "output"), _two_outputs, ("input", "history")),
    *(
        Layout("labelled dialogues", (name, label), _labelled_dialogue(name, label))
        for name in ("messages", "conversations")
        for label in ("label", "kto_tag")
    ),
    # What is incomplete is read as far as it goes, so that the reason names the field that is missing.
    Layout("our own rankings", ("responses",), _own("prompt", "responses", "rank"), ("prompt", "rank")),
    Layout("our own unpaired responses", ("completion",), _own("prompt", "completion", "label"), ("prompt", "label")),
)


def _steered(prompt: Any) -> list[dict[str, Any]]:
    """Return a HelpSteer2 prompt: one question, or a dialogue whose later turns bear markers."""
    if not isinstance(prompt, str):
        return _asked(prompt)
    first, *rest = re.split(r"<extra_id_1>(User|Assistant)\s", prompt)
    roles, texts = {"User": USER, "Assistant": ASSISTANT}, [text.rstrip() for text in (first, *rest[1::2])]
    found = list(zip((USER, *map(roles.__getitem__, rest[::2])), texts, strict=True)) if rest else [(USER, prompt)]
    if found[-1] == (ASSISTANT, ""):
        found.pop()
    role, said = found[-1]
    return _asked(said, *found[:-1]) if role == USER else [{"role": r, "content": text} for r, text in found]


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


# ---- reading a row by its layout ----------------------------------------------------------------------


def layout_of(row: Row) -> Layout | None:
    """Return the first layout all of whose columns a row has."""
    there = {name for name, value in row.items() if not missing(value)}
    found = next((layout for layout in LAYOUTS if there.issuperset(layout.needs)), None)
    if found is None:  # an empty response is a mistake in a row, no other layout
        there = {name for name, value in row.items() if isinstance(value, str) or not missing(value)}
        found = next((layout for layout in LAYOUTS if there.issuperset(layout.needs)), None)
    return found


def beside(row: Row) -> Row:
    """Return the optional fields of a row that say something; the system message under one name."""
    found = {name: row[name] for name in BESIDE if name in row and not absent(row[name])}
    systems = {name: found.pop(name) for name in SYSTEM_NAMES if name in found}
    one, *others = systems.values() or [None]
    if any(other != one for other in others):
        raise RowError(f"{' and '.join(systems)} differ")
    return {**found, SYSTEM: one} if systems else found


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
