"""Public layouts of preference data, read by their columns; columns that are named by option, or not read."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preflab.data.columns import FIELDS, parse_columns
from preflab.data.formats import clean_rows, preference_rows
from preflab.data.layout_parts import TIE
from preflab.data.layouts import LAYOUTS
from preflab.errors import UserError
from preflab.worlds import WorldConfig

ASKED, BEST, WORST = "Why is the sky blue?", "Light scatters.", "No idea."
PROMPT = f"Human: {ASKED}\n\nAssistant:"
USER, BOT = {"role": "user", "content": ASKED}, {"role": "assistant", "content": BEST}
BAD_BOT = {"role": "assistant", "content": WORST}


def gpt(text: str, role: str = "gpt") -> dict[str, str]:
    return {"from": role, "value": text}


READ = {
    "UltraFeedback, binarised": {
        "prompt": ASKED, "prompt_id": "1f", "chosen": [USER, BOT], "rejected": [USER, BAD_BOT], "score_chosen": 9.0,
    },
    "UltraFeedback": {
        "instruction": ASKED,
        "completions": [
            {"response": WORST, "overall_score": 9.5, "fine-grained_score": 1.5},
            {"response": BEST, "overall_score": 2.0, "fine-grained_score": 4.5},
        ],
    },
    "UltraFeedback without fine-grained scores": {
        "instruction": ASKED,
        # As numpy prints it: no comma between the two.
        "completions": f"[{{'response': '{WORST}', 'score': 2.0}}\n {{'response': '{BEST}', 'score': 8.5}}]",
    },
    "HH": {"chosen": f"\n\n{PROMPT} {BEST}", "rejected": f"\n\n{PROMPT} {WORST}"},
    "PKU": {"prompt": ASKED, "response_0": WORST, "response_1": BEST, "better_response_id": 1, "safer_response_id": 0},
    "PKU, safer only": {"prompt": ASKED, "response_0": BEST, "response_1": WORST, "safer_response_id": 0.0},
    "SHP": {"history": ASKED, "human_ref_A": BEST, "human_ref_B": WORST, "labels": 1, "score_A": 3, "score_B": 2},
    "SHP, B preferred": {"history": ASKED, "human_ref_A": WORST, "human_ref_B": BEST, "labels": 0},
    "Nectar": {
        "prompt": f"\n\n{PROMPT} ",
        "answers": [
            {"answer": WORST, "rank": 3, "model": "b"},
            {"answer": BEST, "rank": 1, "model": "a"},
            {"answer": "Because.", "rank": 2, "model": "c"},
        ],
    },
    "HelpSteer2": {"prompt": ASKED, "response_1": WORST, "response_2": BEST, "preference_strength": 2},
    "HelpSteer2, first better": {"prompt": ASKED, "response_1": BEST, "response_2": WORST, "preference_strength": -1},
    "SHP, a truth value": {"history": ASKED, "human_ref_A": BEST, "human_ref_B": WORST, "labels": True},
    "scores": {"prompt": PROMPT, "responses": [WORST, "Because.", BEST], "scores": [-1.0, 0.5, 2]},
    "UltraFeedback, one score of two is everywhere": {
        "instruction": ASKED,
        "completions": [
            {"response": WORST, "overall_score": 2.0, "fine-grained_score": 4.5},
            {"response": BEST, "overall_score": 9.5, "fine-grained_score": None},
        ],
    },
    "HelpSteer3": {"context": [USER], "response1": BEST, "response2": WORST, "overall_preference": -3},
    "ShareGPT": {"conversations": [gpt(ASKED, "human")], "chosen": gpt(BEST), "rejected": gpt(WORST)},
    "Orca": {"question": ASKED, "chosen": BEST, "rejected": WORST},
    "Alpaca": {"instruction": ASKED, "input": "", "chosen": BEST, "rejected": WORST},
    "Alpaca, two outputs": {"instruction": ASKED, "input": None, "output": [BEST, WORST]},
    "arena": {"conversation_a": [USER, BAD_BOT], "conversation_b": [USER, BOT], "winner": "model_b"},
    "arena, flags": {
        "prompt": f'["{ASKED}"]', "response_a": f'["{BEST}"]', "response_b": f'["{WORST}"]',
        "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0,
    },
    "Argilla, Orca": {"input": ASKED, "chosen": BEST, "rejected": WORST, "rating": [9, 3]},
    "Argilla, ratings": {"instruction": ASKED, "generations": [WORST, BEST], "ratings": [3.0, 4.5]},
    "distilabel": {"instruction": ASKED, "chosen_response": BEST, "rejected_response": WORST},
    "WebGPT": {"question": {"full_text": ASKED}, "answer_0": WORST, "answer_1": BEST, "score_0": -1.0, "score_1": 1.0},
    "Stack Exchange": {"question": ASKED, "response_j": BEST, "response_k": WORST},
    "Swift, query": {"query": ASKED, "response": BEST, "rejected_response": WORST, "history": []},
    "Swift, last turn": {"messages": [USER, BOT], "rejected_response": WORST},
    "Swift, messages": {"messages": [USER, BOT], "rejected_messages": [USER, BAD_BOT]},
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_public_layouts_mean_the_same(name: str) -> None:
    (row,), bad = preference_rows([(1, READ[name])])
    assert not bad.total
    assert (row["prompt"].strip(), row["chosen"].strip(), row["rejected"].strip()) == (PROMPT, BEST, WORST)


@pytest.mark.parametrize(
    ("row", "desirable"),
    [
        ({"instruction": ASKED, "output": BEST, "kto_tag": True}, True),
        ({"messages": [USER, BOT], "label": False}, False),
        ({"conversations": [gpt(ASKED, "human"), gpt(BEST)], "kto_tag": 1.0}, True),
    ],
)
def test_labelled_layouts(row: dict[str, Any], desirable: bool) -> None:
    (found,), _ = preference_rows([(1, row)], bad_rows="refuse")
    assert (found["prompt"], found["response"], found["desirable"]) == (PROMPT, " " + BEST, desirable)


def test_instruction_with_input_and_history() -> None:
    row = {"instruction": "Sum up:", "input": "A tale.", "history": [["Hi", "Hello"]], "output": ["Tale.", "?"]}
    (found,), _ = preference_rows([(1, row)])
    assert found["prompt"] == "Human: Hi\n\nAssistant: Hello\n\nHuman: Sum up:\nA tale.\n\nAssistant:"
    bad = preference_rows([(1, row), (2, {**row, "history": [["Hi"]]})])[1]
    assert bad.reasons == {"history is not a list of [question, answer]": [2]}


@pytest.mark.parametrize("end", ["", "\n<extra_id_1>Assistant\n"])
def test_helpsteer_dialogues_are_messages_like_its_questions(end: str) -> None:
    dialogue = f"Hi\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\n{ASKED}{end}"
    rows = [READ["HelpSteer2"], READ["HelpSteer2"] | {"prompt": dialogue}]
    found = clean_rows(list(enumerate(rows, 1)))
    assert found.seen.messages == 2
    assert found.rows[1]["prompt"] == f"Human: Hi\n\nAssistant: Yes?\n\n{PROMPT}"
    assert found.rows[1]["chosen"].strip() == BEST


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (READ["HelpSteer2"] | {"preference_strength": 0}, TIE),
        (READ["HelpSteer3"] | {"overall_preference": 0}, TIE),
        (READ["HelpSteer3"] | {"overall_preference": None}, "missing field 'overall_preference'"),
        (READ["SHP"] | {"labels": float("nan")}, "missing field 'labels'"),
        (READ["scores"] | {"scores": [1, 1, 1]}, TIE),
        (READ["arena"] | {"winner": "tie (bothbad)"}, TIE),
        (READ["arena, flags"] | {"winner_model_a": 0, "winner_tie": 1}, TIE),
        (READ["WebGPT"] | {"score_0": 1.0}, TIE),
        (READ["Argilla, ratings"] | {"ratings": [3, 3]}, TIE),
        (READ["HelpSteer2"] | {"preference_strength": 7}, "preference_strength is not a number from -3 to 3"),
        (READ["PKU"] | {"better_response_id": 2}, "better_response_id is not 0 or 1"),
        (READ["SHP"] | {"labels": "A"}, "labels is no number"),
        (READ["arena"] | {"winner": "model_c"}, "winner is not model_a, model_b or tie"),
        (READ["Argilla, ratings"] | {"ratings": [3]}, "ratings does not match responses"),
        (READ["Argilla, ratings"] | {"ratings": [3, float("nan")]}, "ratings is NaN"),
        (READ["Nectar"] | {"answers": [{"answer": "a"}]}, "answers is not a list of objects with answer and rank"),
        (
            {"instruction": ASKED, "output": BEST},
            "one 'output' and no preference: give 'chosen' and 'rejected', or 'output' as a list of two",
        ),
        (
            {"instruction": ASKED, "completions": [{"response": "a"}]},
            "completions have no fine-grained_score, overall_score, score or rating",
        ),
    ],
)  # fmt: skip
def test_what_a_layout_cannot_mean_is_a_bad_row(row: dict[str, Any], reason: str) -> None:
    assert preference_rows([(1, READ["Orca"]), (5, row)])[1].reasons == {reason: [5]}


def test_layouts_have_names_of_their_own_and_columns_that_tell_them_apart() -> None:
    needs = [layout.needs for layout in LAYOUTS]
    assert len(set(needs)) == len(needs)
    # The first that fits is taken: none may come before one that needs more.
    for i, one in enumerate(needs):
        assert not any(set(one) < set(later) for later in needs[i + 1 :]), one


def said(caplog: pytest.LogCaptureFixture, *rows: dict[str, Any], **options: Any) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        clean_rows(list(enumerate(rows, 1)), source="d.jsonl", **options)
    return caplog.text


def test_columns_that_are_not_read_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "subset": "s", "margin": None, "model": "m", "query": "Q2"}
    text = said(caplog, row, {**row, "score_chosen": 3.5}, row)
    assert text.count("columns not read") == 1
    assert "d.jsonl: columns not read: model, query (if it is the prompt: --columns prompt=query), score_chosen" in text
    assert "margin)" in text, "what a score could be used for"
    assert "subset" not in text
    assert "columns" not in said(caplog, {name: row[name] for name in ("prompt", "chosen", "rejected", "subset")})
    assert "columns" not in said(caplog, {**row, "model": None, "query": float("nan")}), "nothing was lost"


def test_what_a_layout_assumes_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    text = said(caplog, READ["PKU"], READ["PKU"])
    assert text.count("--columns better_response_id=safer_response_id") == 1
    text = said(caplog, READ["Orca"], READ["SHP"], READ["Orca"])
    assert "several layouts" in text
    assert "question, chosen, rejected (2), SHP (1)" in text


def test_the_safer_response_by_option(caplog: pytest.LogCaptureFixture) -> None:
    columns = parse_columns(["better_response_id=safer_response_id"])
    (row,), _ = preference_rows([(1, READ["PKU"])], columns=columns)
    assert row["chosen"].strip() == WORST
    text = said(caplog, READ["PKU"], columns=columns)
    assert "helpful" not in text, "it is not so"


@pytest.mark.parametrize("system", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_a_system_message(system: str, caplog: pytest.LogCaptureFixture) -> None:
    (row,), _ = preference_rows([(1, READ["Orca"] | {system: "Be brief."})])
    assert row["prompt"] == f"Be brief.\n\n{PROMPT}"
    assert row["group"] == preference_rows([(1, READ["Orca"])])[0][0]["group"], "it is no part of the first human turn"
    assert "not read" not in caplog.text
    twice = {"prompt": [{"role": "system", "content": "Be brief. "}, USER], "chosen": [BOT], "rejected": [BAD_BOT]}
    assert preference_rows([(1, twice | {system: "Be brief."})])[0][0]["prompt"].count("Be brief.") == 1
    bad = preference_rows([(1, READ["Orca"]), (2, twice | {system: "Be long."})])[1]
    assert bad.reasons == {"the system column and the system message of the prompt differ": [2]}


def test_a_system_column_beside_text(caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": PROMPT, "chosen": " a", "rejected": " b", "system": "Be brief."}
    with caplog.at_level(logging.WARNING):
        assert preference_rows([(1, row)])[0][0]["prompt"] == f"Be brief.\n\n{PROMPT}"
    assert "1 prompts of text have the system prompt in front" in caplog.text
    written = {**row, "prompt": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"}
    bad = preference_rows([(1, row), (2, written)])[1]
    assert bad.reasons == {"a system prompt beside a prompt that a chat template wrote: put it into the prompt": [2]}


# ---- --columns ---------------------------------------------------------------------------------------


def test_columns_by_option() -> None:
    row = {"asked": ASKED, "best": {"text": BEST}, "others": [{"text": "?"}, {"text": WORST}], "chosen": "not this"}
    columns = parse_columns(["prompt=asked", "chosen=best.text", "rejected = others.1.text"])
    rows, bad = preference_rows([(1, row)], columns=columns)
    assert not bad.total
    assert {k: v for k, v in rows[0].items() if k != "group"} == {"prompt": ASKED, "chosen": BEST, "rejected": WORST}
    swapped = parse_columns(["chosen=rejected", "rejected=chosen"])
    (row,), _ = preference_rows([(1, {"prompt": "Q", "chosen": "a", "rejected": "b"})], columns=swapped)
    assert (row["chosen"], row["rejected"]) == ("b", "a")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("prompt",), ["'prompt'", "field=column"]),
        (("prompt=",), ["'prompt='", "field=column"]),
        (("promt=question",), ["'promt'", "did you mean 'prompt'"]),
        (("prompt=a", "prompt=b"), ["'prompt' twice"]),
        (("chosen=answer", "rejected=answer"), ["'chosen' and 'rejected' from one column, 'answer'"]),
    ],
)
def test_columns_that_cannot_be_meant(columns: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(ValueError, match="columns") as error:
        WorldConfig(model="owner/model", dataset="owner/data", columns=columns)
    assert all(word in str(error.value) for word in words), error.value


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"d\.csv has no column 'qestion' .*did you mean 'question'.*it has chosen, quest"
    ):
        clean_rows([(1, READ["Orca"])], columns={"prompt": "qestion"}, source="d.csv")


def test_an_inner_field_that_is_in_no_row_and_one_that_is_read(caplog: pytest.LogCaptureFixture) -> None:
    row = {"asked": {"text": ASKED}, "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError, match=r"no column 'asked\.txt' \(--columns prompt=asked\.txt\)"):
        clean_rows([(1, row)], columns={"prompt": "asked.txt"})
    assert "not read" not in said(caplog, row, columns={"prompt": "asked.text"})


def test_two_system_columns_must_say_the_same() -> None:
    row = {"prompt": [USER], "chosen": [BOT], "rejected": [BAD_BOT], "system": "Be kind.", "system_prompt": "Be kind."}
    rows, bad = preference_rows([(1, row), (2, {**row, "system_message": "Be rude."})])
    assert rows[0]["prompt"].startswith("Be kind.")
    assert bad.reasons == {"system and system_prompt and system_message differ": [2]}


@pytest.mark.parametrize(
    ("row", "option"),
    [
        ({"query": "Q", "chosen": "I am", "rejected": "I was"}, "--columns prompt=query"),
        ({"prompt": "Q", "good": "a", "bad": "b"}, "--columns chosen=good,rejected=bad"),
        ({"query": "Q", "response": "a", "rejected": "b"}, "--columns prompt=query,chosen=response"),
        ({"prompt": "Q", "response": "a", "is_safe": True}, "--columns completion=response,label=is_safe"),
        ({"query": "Q", "candidates": ["a", "b"]}, "--columns prompt=query,responses=candidates"),
        ({"Prompt": "Q", "Chosen": "a", "Rejected": "b"}, "--columns prompt=Prompt,chosen=Chosen,rejected=Rejected"),
    ],
)
def test_what_is_not_recognised_is_refused_with_the_option_that_helps(row: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError, match="no usable row") as error:
        clean_rows([(1, row)], source="d.jsonl")
    assert option in str(error.value)
    columns = parse_columns(option.removeprefix("--columns ").split(","))
    assert clean_rows([(1, row)], columns=columns).rows[0]["prompt"] == "Q"


# ---- anything at all -----------------------------------------------------------------------------------


MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "x", "", None, 3]),
        "from": st.sampled_from(["human", "gpt", None]),
        "content": st.one_of(st.text(max_size=5), st.none(), st.just([{"type": "text", "text": "a"}]), st.just([1])),
        "value": st.text(max_size=5),
        "tool_calls": st.sampled_from([None, [], [{"name": "f"}], "f"]),
    },
)
CELL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.just(10**400),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "nan", "[1, 2]", '["a", "b"]', "[", "{", "Human: a\n\nAssistant: b", "[INST] a [/INST] b"]
    ),
    st.binary(max_size=3),
    st.lists(MESSAGE, max_size=3),
    st.lists(st.one_of(st.text(max_size=3), st.floats(), st.none(), st.lists(MESSAGE, max_size=2)), max_size=4),
    MESSAGE,
    st.lists(MESSAGE, max_size=2).map(repr),
    st.just([{"response": "a", "score": 1}, {"response": "b", "score": "x"}]),
    st.just([{"answer": "a", "rank": 1}, {"answer": "b", "rank": None}]),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_row_is_clean_or_bad_and_nothing_else(data: st.DataObject) -> None:
    """Whatever stands in the columns of whatever layout: a reason of one line, or texts that can be trained on."""
    needs = data.draw(st.sampled_from(LAYOUTS)).needs
    names = [*needs, *data.draw(st.lists(st.sampled_from(FIELDS), max_size=3))]
    row = {name: data.draw(CELL, label=name) for name in names}
    rows, bad = preference_rows([(1, {"prompt": "Q", "chosen": "a", "rejected": "b"}), (2, row)])
    assert len(rows) + bad.total == 2
    assert all("\n" not in reason for reason in [*bad.reasons, bad.summary()])
    for found in rows[1:]:
        texts = [found["prompt"], *(found[name] for name in ("chosen", "rejected", "response") if name in found)]
        assert all(isinstance(text, str) and text.strip() for text in texts)
        assert found.get("chosen", "").strip() != found.get("rejected", " x").strip()
