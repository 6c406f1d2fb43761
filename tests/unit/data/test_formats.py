"""Preference data of every format, cleaned."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_rows import BOT, CHATML, DIALOGUE, PLAIN, USER, cleaned, numbered, pair, say
from transformers import PreTrainedTokenizerBase

from preflab.data.answers import NO_PROMPT
from preflab.data.findings import BadRows
from preflab.data.formats import preference_rows
from preflab.data.layout_parts import TIE
from preflab.errors import UserError


@pytest.mark.parametrize(
    "row",
    [
        pair(PLAIN, " 4", " 5"),
        {"chosen": PLAIN + " 4", "rejected": PLAIN + " 5"},
        {"prompt": DIALOGUE, "chosen": [say(BOT, "4")], "rejected": [say(BOT, "5")]},
        {"prompt": DIALOGUE, "chosen": "4", "rejected": "5"},
        {"prompt": DIALOGUE, "chosen": [*DIALOGUE, say(BOT, "4")], "rejected": [*DIALOGUE, say(BOT, "5")]},
        {"prompt": "2+2?", "chosen": [*DIALOGUE, say(BOT, "4")], "rejected": [*DIALOGUE, say(BOT, "5")]},
        {"chosen": [*DIALOGUE, say(BOT, "4")], "rejected": [*DIALOGUE, say(BOT, "5")]},
        {"prompt": PLAIN, "responses": [" 4", " 3", " 5"]},
        {"prompt": DIALOGUE, "responses": ["5", "4"], "rank": [1, 0]},
        {"prompt": DIALOGUE, "responses": [[say(BOT, "4")], [say(BOT, "5")]]},
    ],
    ids=[
        *("explicit", "implicit", "messages", "mixed", "repeated prompt", "repeated text prompt"),
        *("implicit messages", "ranked", "ranked by rank", "ranked messages"),
    ],
)
def test_every_format_means_the_same(row: dict[str, Any]) -> None:
    assert cleaned(row) == (PLAIN, " 4", " 5")


def test_conversational_pair_with_a_text_prompt() -> None:
    row = {"prompt": "2+2?", "chosen": [say(BOT, "4")], "rejected": [say(BOT, "5")]}
    assert cleaned(row) == ("Human: 2+2?\n\nAssistant:", " 4", " 5")


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        # Both answers start with "I": the marker, not the common prefix, ends the prompt.
        ("\n\nHuman: Q\n\nAssistant: I do", "\n\nHuman: Q\n\nAssistant: I am", "\n\nHuman: Q\n\nAssistant:"),
        ("Q: why?\nA: Because", "Q: why?\nA: Bees", "Q: why?\nA:"),
        ("Be kind. USER: Q ASSISTANT: I do", "Be kind. USER: Q ASSISTANT: I am", "Be kind. USER: Q ASSISTANT:"),
    ],
)
def test_implicit_prompt_of_text_ends_where_the_answer_begins(chosen: str, rejected: str, expected: str) -> None:
    prompt, best, worst = cleaned({"chosen": chosen, "rejected": rejected})
    assert (prompt, prompt + best, prompt + worst) == (expected, chosen, rejected)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "a"}, "missing field 'rejected'"),
        (pair(chosen=None), "missing field 'chosen'"),  # type: ignore[arg-type]
        ({"responses": ["a", "b"]}, "missing field 'prompt'"),
        (pair(chosen=3), "not text"),  # type: ignore[arg-type]
        (pair(prompt=["Q"]), "not text"),  # type: ignore[arg-type]
        (pair(chosen=[{"role": BOT, "content": None}]), "content of a message is null (role assistant)"),  # type: ignore[arg-type]
        (pair(chosen="\ud83d"), "not text"),  # a lone surrogate
        (pair(chosen=" \n"), "empty response"),
        ({"prompt": DIALOGUE, "chosen": [], "rejected": [say(BOT, "x")]}, "empty response"),
        ({"chosen": PLAIN + " 4", "rejected": PLAIN}, "empty response"),
        (pair(" "), "empty prompt"),
        # An invented prompt would be the beginning of the answers.
        ({"chosen": "Tell me: that", "rejected": "Tell me: this"}, NO_PROMPT),
        (pair(chosen="same", rejected="same "), "chosen equal to rejected"),
        ({"chosen": PLAIN, "rejected": PLAIN}, "chosen equal to rejected"),
        ({"prompt": "Q", "responses": ["a", "b"], "rank": [0, 0]}, TIE),
        ({"prompt": "Q", "responses": ["a", "b", "c"], "rank": [1, 1.0, "1"]}, TIE),
        ({"prompt": "Q", "responses": ["a", None, "b"]}, "a response is missing among responses"),
        ({"prompt": "Q", "responses": ["a", float("nan")]}, "a response is missing among responses"),
        ({"prompt": "Q", "responses": ["a", "", "b"]}, "empty response"),
        ({"prompt": "Q", "responses": ["a", "b", "a ", "c"]}, "the same response twice in a ranking"),
        ({"prompt": "Q", "responses": ["a"]}, "fewer than two responses"),
        ({"prompt": "Q", "responses": ["a", "b"], "rank": [0]}, "rank does not match responses"),
        ({"prompt": "Q", "responses": ["a", "b"], "rank": ["x", 1]}, "rank holds what is no number"),
        ({"prompt": "Q", "responses": ["a", "b"], "rank": [float("nan"), 1]}, "rank holds what is no number"),
        (
            {"prompt": DIALOGUE, "chosen": [say(BOT, "a"), say(USER, "b")], "rejected": "c"},
            "response is not one assistant turn",
        ),
    ],
)
def test_bad_rows_are_counted_by_reason_with_their_numbers(row: dict[str, Any], reason: str) -> None:
    rows, bad = preference_rows([(7, pair("first")), (12, row), (31, pair("last"))])
    assert bad.reasons == {reason: [12]}
    assert bad.total == 1
    assert [clean["prompt"] for clean in rows] == ["first", "last"]
    with pytest.raises(UserError) as error:
        preference_rows([(7, pair()), (12, row)], bad_rows="refuse", source="x.jsonl")
    assert all(part in str(error.value) for part in ("x.jsonl", reason, "row 12", "drop"))


def test_summary_shows_the_first_numbers_only() -> None:
    bad = BadRows({"not text": [1], "empty response": list(range(2, 12))})
    assert bad.summary(shown=3) == "empty response: 10 (rows 2, 3, 4, …); not text: 1 (row 1)"
    assert BadRows().summary() == "no bad rows"


def test_summary_shows_the_first_value_that_was_wrong() -> None:
    bad = preference_rows(numbered(pair(), pair(preference=75), pair(preference=80)))[1]
    assert bad.summary() == "preference is not a number from 0 to 1, such as 75: 2 (rows 2, 3)"


def test_nothing_usable_says_what_is_needed() -> None:
    with pytest.raises(UserError, match=r"x\.csv has no usable row: missing field 'chosen': 1 \(row 2\).*needs"):
        preference_rows([(2, {"text": "?"})], source="x.csv")
    with pytest.raises(UserError, match="no usable row"):
        preference_rows([])


def test_source_stands_in_for_a_subset() -> None:
    named = [{"source": "hh"}, {"subset": "chat", "source": "hh"}, {"subset": 0, "source": "hh"}]
    named += [{"subset": "", "source": "hh"}, {"subset": "", "source": None}]
    rows, _ = preference_rows(numbered(*(pair("a", **names) for names in named)))
    assert [row.get("subset") for row in rows] == ["hh", "chat", "0", "hh", None]


def test_subset_group_and_ranking_are_kept() -> None:
    rows, _ = preference_rows(
        numbered(
            pair("a", subset="s", group="g1"),
            pair("b", subset=3, group="G1 "),
            pair("b", group=None),
            {"prompt": "c", "responses": ["x", "y", "z"], "group": 5},
        )
    )
    assert [row.get("subset") for row in rows] == ["s", "3", None, None]
    assert rows[0]["group"] == rows[1]["group"] != rows[2]["group"]
    assert rows[3]["responses"] == ["x", "y", "z"]
    assert "responses" not in rows[0]
    assert "rank" not in rows[3]
    without, _ = preference_rows(numbered(pair("a", group="g1"), pair("a", group="g2")), use_group=False)
    assert without[0]["group"] == without[1]["group"]


@pytest.mark.parametrize(
    "nothing", ["", "  ", None, float("nan"), np.float32("nan"), "NaN", "<NA>", "None", pd.NA, pd.NaT]
)
def test_an_optional_cell_without_a_value_is_none(nothing: Any) -> None:
    row = pair("a", group=nothing, subset=nothing, source="s", system=nothing, preference=nothing, margin=nothing)
    assert preference_rows(numbered(row), bad_rows="refuse") == preference_rows(numbered(pair("a", source="s")))


@pytest.mark.parametrize("nothing", [None, float("nan"), np.nan, pd.NA])
@pytest.mark.parametrize("name", ["chosen", "rejected"])
def test_a_needed_cell_without_a_value_is_missing(name: str, nothing: Any) -> None:
    assert preference_rows(numbered(pair(), pair(**{name: nothing})))[1].reasons == {f"missing field '{name}'": [2]}


def test_groups_that_a_hole_made_floats_are_the_same() -> None:
    rows, _ = preference_rows(
        numbered(pair("a", group=7), pair("b", group=7.0), pair("c", group=" 7"), pair("d", group=7.5))
    )
    assert [row["group"] == rows[0]["group"] for row in rows] == [True, True, True, False]
    bad = preference_rows(numbered(pair(), pair(group=[1])))[1]
    assert bad.reasons == {"group is neither text nor a number": [2]}


def test_ties_inside_a_ranking_are_kept() -> None:
    """Places are counted from 0 without holes, whatever numbers the data has."""
    row = {"prompt": "Q", "responses": ["a", "b", "c", "d"], "rank": [4, 1, 4.0, "2"]}
    rows, _ = preference_rows(numbered(row, {**row, "preference": 0.25}, {**row, "rank": "[4, 1, 3, 2]"}))
    assert (rows[0]["responses"], rows[0]["rank"]) == (["b", "d", "a", "c"], [0, 1, 2, 2])
    assert (rows[1]["responses"], rows[1]["rank"]) == (["c", "a", "d", "b"], [0, 0, 1, 2])
    assert rows[2]["responses"] == ["b", "d", "c", "a"]
    assert "rank" not in rows[2]


# How sure and how strong a preference is


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({}, {}),
        ({"preference": None, "margin": None}, {}),
        ({"preference": "", "margin": ""}, {}),  # empty cells of a CSV file
        ({"preference": float("nan"), "margin": "nan"}, {}),  # pandas' and parquet's "no value"
        ({"preference": np.float32("nan"), "margin": np.float64(2)}, {"margin": 2.0}),
        ({"preference": 0.75, "margin": 2}, {"preference": 0.75, "margin": 2.0}),
        ({"preference": "0.75", "margin": "2"}, {"preference": 0.75, "margin": 2.0}),
        ({"preference": 1, "margin": 0}, {"preference": 1.0, "margin": 0.0}),
        ({"preference": 0.5, "margin": 1.5}, {"preference": 0.5, "margin": 1.5}),
        ({"chosen_score": 9, "rejected_score": 2, "score_chosen": 9}, {}),  # somebody's scale, not units of reward
    ],
)
def test_preference_and_margin_are_kept(said: dict[str, Any], kept: dict[str, float]) -> None:
    rows, bad = preference_rows(numbered(pair(**said)))
    assert not bad.total
    assert {k: v for k, v in rows[0].items() if k != "group"} == pair(**kept)
    assert all(type(rows[0][name]) is float for name in kept)


def test_chosen_is_the_likelier_response() -> None:
    rows, bad = preference_rows(
        numbered(
            pair(preference=0.25, margin=0.0),
            pair(preference=0.0),
            {"prompt": "Q", "responses": ["a", "b", "c"], "preference": 0.25},
            pair(preference=0.25, margin=1.0),
        )
    )
    assert [(row["chosen"], row["rejected"], row["preference"]) for row in rows] == [
        ("no", "yes", 0.75),
        ("no", "yes", 1.0),
        ("c", "a", 0.75),
    ]
    assert rows[2]["responses"] == ["c", "b", "a"]
    assert bad.reasons == {"margin of a response that is not preferred": [4]}


@pytest.mark.parametrize("value", [-0.1, 1.1, 75, "75 %", float("inf"), "much", True, [1.0], {}])
def test_preference_that_is_no_probability_is_bad(value: Any) -> None:
    assert preference_rows(numbered(pair("a"), pair(preference=value)))[1].reasons == {
        "preference is not a number from 0 to 1": [2]
    }


@pytest.mark.parametrize("value", [-0.1, float("-inf"), float("inf"), 10**400, "much", False, [1.0]])
def test_margin_that_is_no_distance_is_bad(value: Any) -> None:
    assert preference_rows(numbered(pair("a"), pair(margin=value)))[1].reasons == {
        "margin is not a number from 0 up": [2]
    }


def test_dialogues_without_a_template_are_written_plainly_and_said_so(
    caplog: pytest.LogCaptureFixture, tokenizer: PreTrainedTokenizerBase
) -> None:
    row = {"prompt": [say("system", "Be brief."), say(USER, "Hi")], "chosen": "a", "rejected": "b"}
    with caplog.at_level(logging.WARNING):
        assert cleaned(row, tokenizer)[0] == "Be brief.\n\nHuman: Hi\n\nAssistant:"
    assert "no chat template" in caplog.text


def test_chat_template_writes_dialogues_and_the_response_ends_with_the_end_token(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = CHATML
    row = {"prompt": DIALOGUE, "chosen": "4", "rejected": [say(BOT, "5")]}
    prompt = "<|user|>Hi</s>\n<|assistant|>Hello</s>\n<|user|>2+2?</s>\n<|assistant|>"
    assert cleaned(row, tokenizer) == (prompt, "4</s>", "5</s>")
    assert cleaned(pair("plain text"), tokenizer)[0] == "<|user|>plain text</s>\n<|assistant|>"


def test_text_beside_a_chat_template_is_said_unless_a_template_wrote_it(
    caplog: pytest.LogCaptureFixture, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.chat_template = CHATML
    preference_rows(numbered(pair("<|user|>Hi</s>\n<|assistant|>")), tokenizer)
    assert "joined as it stands" not in caplog.text
    rows = numbered(pair("Hi"), pair("Ho"), pair("<|user|>Hi</s>\n<|assistant|>"))
    preference_rows(rows, tokenizer, dialogues="text")
    assert "2 rows are text, which is joined as it stands" in caplog.text


def test_template_that_rewrites_the_prompt_gives_the_bare_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}|{{ m['content'] }}{% endfor %}"
    assert cleaned({"prompt": [say(USER, "Q")], "chosen": "a", "rejected": "b"}, tokenizer) == (
        "1|Q",
        "a",
        "b",
    )


def test_rows_the_template_refuses_are_bad(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    good = {"prompt": [say(USER, "Hi")], "chosen": "a", "rejected": "b"}
    refused = good | {"prompt": [say("system", "x"), say(USER, "Hi")]}
    assert preference_rows(numbered(good, refused), tokenizer)[1].reasons == {
        "refused by the chat template (no system)": [2]
    }
