"""Columns that mean something: public layouts of preference data, read by their columns.

A layout brings a raw row to the fields of the project's own formats (README, "Data formats"): ``prompt, chosen,
rejected``; ``prompt, responses, rank``; ``prompt, completion, label``; and ``system``, ``tools``, ``group``,
``subset``, ``source``, ``preference``, ``margin`` beside any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from preflab.data.cells import absent, missing
from preflab.data.layout_parts import alpaca_prompt, as_pair, as_prompt, as_ranking, items, one_of, signed
from preflab.data.messages import SYSTEM
from preflab.data.public_sets import (
    arena,
    arena_flags,
    labelled_dialogue,
    last_turn_against,
    nectar,
    steered,
    two_outputs,
    ultrafeedback,
    webgpt,
)
from preflab.data.reading import Row, RowError

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


def _asked_in(name: str) -> Callable[[Row], Row]:
    return lambda row: {"prompt": as_prompt(row[name]), "chosen": row["chosen"], "rejected": row["rejected"]}


def _own(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row[name] for name in names if name in row}


PAIR = ("chosen", "rejected")

LAYOUTS = (
    Layout("our own rankings", ("prompt", "responses", "rank"), _own("prompt", "responses", "rank")),
    Layout(
        "responses with scores",
        ("prompt", "responses", "scores"),
        lambda row: as_ranking(
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
        lambda row: {"prompt": alpaca_prompt(row), "chosen": row["chosen"], "rejected": row["rejected"]},
        ("input", "history"),
    ),
    Layout("input, chosen, rejected", ("input", *PAIR), _asked_in("input")),
    Layout("whole dialogues", PAIR, _own(*PAIR)),
    Layout(
        "query, response, rejected_response",
        ("query", "response", "rejected_response"),
        lambda row: as_pair(alpaca_prompt(row, "query"), row["response"], row["rejected_response"], True),
        ("input", "history"),
    ),
    Layout("messages, rejected_response", ("messages", "rejected_response"), last_turn_against),
    Layout(
        "messages, rejected_messages",
        ("messages", "rejected_messages"),
        lambda row: {"chosen": row["messages"], "rejected": row["rejected_messages"]},
    ),
    Layout(
        "UltraFeedback",
        ("instruction", "completions"),
        ultrafeedback,
        note="completions are ranked by their fine-grained_score, else overall_score, score or rating; system prompts "
        "inside them are not read",
    ),
    Layout(
        "rated generations",
        ("instruction", "generations", "ratings"),
        lambda row: as_ranking(
            alpaca_prompt(row), items(row["generations"], "generations"), items(row["ratings"], "ratings"), "ratings"
        ),
    ),
    Layout(
        "rated generations",
        ("input", "generations", "ratings"),
        lambda row: as_ranking(
            as_prompt(row["input"]),
            items(row["generations"], "generations"),
            items(row["ratings"], "ratings"),
            "ratings",
        ),
    ),
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        lambda row: as_pair(
            as_prompt(row["prompt"]),
            row["response_0"],
            row["response_1"],
            one_of(row, "better_response_id", {0: True, 1: False}),
        ),
        note="the more helpful response is chosen (better_response_id); for the safer one add "
        "--columns better_response_id=safer_response_id",
    ),
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "safer_response_id"),
        lambda row: as_pair(
            as_prompt(row["prompt"]),
            row["response_0"],
            row["response_1"],
            one_of(row, "safer_response_id", {0: True, 1: False}),
        ),
        note="the safer response is chosen (safer_response_id)",
    ),
    Layout(
        "SHP",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        lambda row: as_pair(
            as_prompt(row["history"]),
            row["human_ref_A"],
            row["human_ref_B"],
            one_of(row, "labels", {1: True, 0: False}),
        ),
    ),
    Layout("Nectar", ("prompt", "answers"), nectar),
    Layout(
        "HelpSteer2 preferences",
        ("prompt", "response_1", "response_2", "preference_strength"),
        lambda row: as_pair(
            steered(row["prompt"]), row["response_1"], row["response_2"], signed(row, "preference_strength")
        ),
    ),
    Layout(
        "HelpSteer3",
        ("context", "response1", "response2", "overall_preference"),
        lambda row: as_pair(
            as_prompt(row["context"]), row["response1"], row["response2"], signed(row, "overall_preference")
        ),
    ),
    Layout("arena dialogues", ("conversation_a", "conversation_b", "winner"), arena),
    Layout(
        "arena turns",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        arena_flags,
        ("winner_tie",),
    ),
    Layout("WebGPT comparisons", ("question", "answer_0", "answer_1", "score_0", "score_1"), webgpt),
    Layout(
        "Stack Exchange pairs",
        ("question", "response_j", "response_k"),
        lambda row: as_pair(as_prompt(row["question"]), row["response_j"], row["response_k"], True),
    ),
    Layout(
        "instruction, chosen_response, rejected_response",
        ("instruction", "chosen_response", "rejected_response"),
        lambda row: as_pair(alpaca_prompt(row), row["chosen_response"], row["rejected_response"], True),
        ("input",),
    ),
    Layout(
        "Alpaca with a label",
        ("instruction", "output", "kto_tag"),
        lambda row: {"prompt": alpaca_prompt(row), "completion": row["output"], "label": row["kto_tag"]},
        ("input", "history"),
    ),
    Layout("Alpaca with two outputs", ("instruction", "output"), two_outputs, ("input", "history")),
    *(
        Layout("labelled dialogues", (name, label), labelled_dialogue(name, label))
        for name in ("messages", "conversations")
        for label in ("label", "kto_tag")
    ),
    # What is incomplete is read as far as it goes, so that the reason names the field that is missing.
    Layout("our own rankings", ("responses",), _own("prompt", "responses", "rank"), ("prompt", "rank")),
    Layout("our own unpaired responses", ("completion",), _own("prompt", "completion", "label"), ("prompt", "label")),
)


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
