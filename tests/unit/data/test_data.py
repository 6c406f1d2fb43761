"""Reading, cleaning and splitting preference data."""

from __future__ import annotations

import copy
import gzip
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from preflab.data.answers import NO_PROMPT
from preflab.data.findings import BadRows
from preflab.data.formats import preference_rows
from preflab.data.layout_parts import TIE
from preflab.data.reading import read_rows
from preflab.data.splits import check_leak, fingerprint, group_key, paired, split_of, to_dataset
from preflab.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER, BOT = "user", "assistant"


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def numbered(*rows: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(rows, 1))


def pair(prompt: str = "Q", chosen: str = "yes", rejected: str = "no", **extra: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}


# 1. Reading


ROWS = [pair("a"), pair("b", "ü\u2028x")]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.name.endswith(".parquet"):
        to_dataset(rows).to_parquet(str(path))
    elif path.name.endswith(".csv"):
        to_dataset(rows).to_csv(str(path), index=False)
    else:
        content = lines if ".jsonl" in path.name else json.dumps(rows, indent=1).encode()
        path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("suffix", ["json", "json.gz", "jsonl", "jsonl.gz", "parquet", "csv", "JSONL"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = read_rows(str(write(tmp_path / f"d.{suffix.lower()}", ROWS).rename(tmp_path / f"x.{suffix}")))
    assert [row for _, row in rows] == ROWS
    first = 2 if suffix == "csv" else 1  # a spreadsheet shows the header as row 1
    assert [n for n, _ in rows] == [first, first + 1]


def test_json_lines_under_a_json_suffix_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    assert [row for _, row in read_rows(str(path))] == ROWS


def test_lines_that_are_not_json_objects_are_bad_rows_with_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [
        json.dumps(pair()).encode(),
        b"{broken",
        b"",
        b"[1, 2]",
        b"\xff\xfe",
        json.dumps(pair("b")).encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    rows, bad = preference_rows(read_rows(str(path)))
    assert [row["prompt"] for row in rows] == ["Q", "b"]
    assert bad.reasons == {"not JSON": [2, 4, 5]}  # line 3 is empty, not bad


def test_csv_rows_with_too_many_or_too_few_cells_are_bad(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b'\xef\xbb\xbf,prompt , chosen,rejected\n0,a,yes,no\n1,a,yes,no,more\n\n2,a,yes\n3,b,"y\ns",no\n')
    rows, bad = preference_rows(read_rows(str(path)))
    assert [(row["prompt"], row["chosen"]) for row in rows] == [("a", "yes"), ("b", "y\ns")]
    assert bad.reasons == {"more cells than columns": [3], "fewer cells than columns": [5]}


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,chosen,rejected\nQ,yes," + "x" * 200_000 + "\n")
    assert len(read_rows(str(path))[0][1]["rejected"]) == 200_000


def test_a_key_that_stands_twice_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "Q", "chosen": "a", "chosen": "b", "rejected": "c"}\n' + json.dumps(pair()))
    assert preference_rows(read_rows(str(path)))[1].reasons == {"a key twice in one object": [1]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("latin.csv", "prompt,chosen\nvoil\u00e0,x\n".encode("latin-1"), ["latin.csv", "UTF-8"]),
        ("wide.csv", "prompt,chosen\n".encode("utf-16-le"), ["wide.csv", "line 1", "NUL", "UTF-8"]),
        ("wide.jsonl", '{"prompt": 1}'.encode("utf-16"), ["wide.jsonl", "UTF-16"]),
        ("open.csv", b'prompt,chosen\n"Q,x\ny,z\n', ["open.csv", "line 3"]),
        ("semicolon.csv", b"prompt;chosen;rejected\na;b;c\n", ["semicolon.csv", "one column", "commas"]),
        ("twice.csv", b"prompt,chosen,chosen\na,b,c\n", ["twice.csv", "'chosen' twice"]),
        ("absent.jsonl", None, ["absent.jsonl", "does not exist"]),
        ("notes.txt", b"x", ["notes.txt", "unknown suffix", ".parquet"]),
        ("d.jsonl.gz", b"not gzip", ["d.jsonl.gz", "cannot be read"]),
        ("cut.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:-9], ["cut.jsonl.gz", "cannot be read"]),
        ("d.parquet", b"not parquet", ["d.parquet", "parquet"]),
        ("d.json", b"[1, 2", ["d.json", "not valid JSON"]),
        ("d.csv", b"\xff\xfe\xfd", ["d.csv", "cannot be read"]),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes | None, words: list[str]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_rows(str(tmp_path / name))
    assert all(word in str(error.value) for word in words), error.value


def test_hub_name_is_answered_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(name: str, split: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"'owner/name' \(split 'test'\).*no network.*local file"):
        read_rows("owner/name", "test")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: to_dataset(ROWS))
    assert read_rows("owner/name") == list(enumerate(ROWS, 1))


def test_a_folder_of_files_goes_to_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: to_dataset([pair(name)]))
    assert read_rows(str(tmp_path))[0][1]["prompt"] == str(tmp_path)


# 2. Cleaning


@pytest.fixture
def tokenizer(tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """One whose chat template a test may set."""
    return copy.deepcopy(tiny_tokenizer)


def cleaned(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[str, str, str]:
    rows, bad = preference_rows(numbered(row), tokenizer)
    assert not bad.total
    return rows[0]["prompt"], rows[0]["chosen"], rows[0]["rejected"]


DIALOGUE = [say(USER, "Hi"), say(BOT, "Hello"), say(USER, "2+2?")]
PLAIN = "Human: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant:"


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


# Unpaired responses


def lone(label: Any, prompt: Any = "Q", completion: Any = "yes", **extra: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label, **extra}


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        (PLAIN, " 4"),
        (DIALOGUE, [say(BOT, "4")]),
        (DIALOGUE, "4"),
        (DIALOGUE, [*DIALOGUE, say(BOT, "4")]),
        ("2+2?", [*DIALOGUE, say(BOT, "4")]),
    ],
    ids=["text", "messages", "mixed", "repeated prompt", "repeated text prompt"],
)
def test_unpaired_rows_of_every_format(prompt: Any, completion: Any) -> None:
    rows, bad = preference_rows(numbered(lone(True, prompt, completion, subset="s")))
    assert not bad.total
    (paired_row,), _ = preference_rows(numbered(pair(PLAIN, " 4", " 5")))
    group = paired_row["group"]
    assert rows == [{"prompt": PLAIN, "group": group, "subset": "s", "response": " 4", "desirable": True}]


def test_unpaired_row_by_the_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = CHATML
    rows, _ = preference_rows(numbered(lone(False, [say(USER, "Hi")], [say(BOT, "4")])), tokenizer)
    assert (rows[0]["prompt"], rows[0]["response"]) == ("<|user|>Hi</s>\n<|assistant|>", "4</s>")


@pytest.mark.parametrize(
    ("label", "desirable"),
    [
        *((True, True), (False, False), (1, True), (0, False), ("True", True), ("false", False), ("1", True)),
        *(
            ("0 ", False),
            (1.0, True),
            (0.0, False),
            ("1.0", True),
            ("Yes", True),
            (np.True_, True),
            (np.int8(0), False),
        ),
    ],
)
def test_labels(label: Any, desirable: bool) -> None:
    rows, _ = preference_rows(numbered(lone(label)))
    assert rows[0]["desirable"] is desirable


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (lone(None), "missing field 'label'"),
        (lone(2), "label is neither true nor false"),
        (lone("good"), "label is neither true nor false"),
        (lone(-1), "label is neither true nor false"),
        (lone(0.5), "label is neither true nor false"),
        (lone(float("nan")), "missing field 'label'"),
        (lone(True, completion=float("nan")), "missing field 'completion'"),
        (lone([True]), "label is neither true nor false"),
        (lone(True, completion=" "), "empty response"),
        (lone(True, completion=3), "not text"),
        (lone(True, prompt=None), "missing field 'prompt'"),
        (lone(True, " "), "empty prompt"),
        (lone(True, DIALOGUE, [say(USER, "4")]), "response is not one assistant turn"),
        ({"prompt": "Q", "label": True}, "missing field 'chosen'"),
    ],
)
def test_bad_unpaired_rows(row: dict[str, Any], reason: str) -> None:
    assert preference_rows([(1, lone(True)), (12, row)])[1].reasons == {reason: [12]}


def test_completion_and_label_beside_a_pair_are_another_matter() -> None:
    rows, _ = preference_rows(numbered(pair(completion="other", label=False)))
    assert rows[0]["chosen"] == "yes"
    assert "response" not in rows[0]


def test_opposite_labels_of_one_prompt_are_paired_in_order() -> None:
    raw = [
        lone(False, "a", "a-1", subset="s"),
        lone(True, "a", "a+1", subset="t"),
        lone(True, "b", "b+1"),
        lone(True, "a", "a+2"),
        lone(False, "a", "a-2"),
        lone(True, "a", "a+3"),
        lone(False, "c", "c-1"),
        lone(True, "d", "same"),
        lone(False, "d", "same "),
    ]
    rows, _ = preference_rows(numbered(*raw))
    pairs, singles = paired(rows)
    groups = {row["prompt"]: row["group"] for row in rows}
    assert pairs == [
        {**pair("a", "a+1", "a-1", subset="t"), "group": groups["a"]},
        {**pair("a", "a+2", "a-2"), "group": groups["a"]},
    ]
    assert [row["response"] for row in singles] == ["a+3", "b+1", "c-1", "same", "same "]
    assert all(row in rows for row in singles)
    assert paired([]) == ([], [])


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
    assert cleaned(pair("plain text"), tokenizer)[0] == "plain text"


def test_text_beside_a_chat_template_is_said_unless_a_template_wrote_it(
    caplog: pytest.LogCaptureFixture, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.chat_template = CHATML
    preference_rows(numbered(pair("<|user|>Hi</s>\n<|assistant|>")), tokenizer)
    assert "joined as it stands" not in caplog.text
    preference_rows(numbered(pair("Hi"), pair("Ho"), pair("<|user|>Hi</s>\n<|assistant|>")), tokenizer)
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


# 3. Splitting


def test_group_key_is_the_first_human_turn() -> None:
    keys = {
        group_key("Human: Hi  there\n\nAssistant:"),
        group_key("\n\nHuman: hi there\n\nAssistant: Yes?\n\nHuman: more\n\nAssistant:"),
        group_key([say("system", "s"), say(USER, "Hi there"), say(BOT, "Yes?")]),
        group_key("hi there"),
    }
    assert keys == {"hi there"}
    assert group_key([say("system", "s"), say(USER, " "), say(USER, "Hi")]) == "hi"
    assert group_key([say("system", "s"), say(BOT, "Yes?")]) == "s yes?", "one system text is no one dialogue"
    assert group_key("Once upon a time") == "once upon a time"
    assert group_key("Human:\n\nAssistant:") == "human: assistant:"  # no turn to go by: the whole prompt


FRACTIONS = {"heldout": 0.2, "gold": 0.2, "train": 0.6}


@given(st.text(), st.integers(0, 99))
def test_split_depends_on_key_and_seed_alone(key: str, seed: int) -> None:
    key = key.encode(errors="replace").decode()
    assert split_of(key, seed, FRACTIONS) == split_of(key, seed, dict(FRACTIONS)) in FRACTIONS


def test_splits_have_their_shares_and_never_change() -> None:
    names = [split_of(str(i), 0, FRACTIONS) for i in range(5000)]
    # Standard error of a share is at most sqrt(.24 / 5000) = .007; four of them.
    assert all(abs(names.count(name) / 5000 - share) < 0.028 for name, share in FRACTIONS.items())
    assert names != [split_of(str(i), 1, FRACTIONS) for i in range(5000)]
    # The first 8 bytes of sha256("0\n" + key), over 2**64: x .979, y .365, z .513, a .052. Another
    # rule would move people's held-out data into training.
    recorded = {"x": "train", "y": "gold", "z": "train", "a": "heldout"}
    assert {key: split_of(key, 0, FRACTIONS) for key in recorded} == recorded
    assert split_of("anything", 0, {"heldout": 0.0, "train": 1.0}) == "train"


def test_leaking_held_out_rows_are_dropped() -> None:
    train, _ = preference_rows(numbered(pair("Human: Hi\n\nAssistant:"), pair("Where?", group="g")))
    heldout, _ = preference_rows(
        numbered(
            pair("Human: Hi\n\nAssistant: Yes?\n\nHuman: Bye\n\nAssistant:"),  # same first turn
            pair(" where?", group="other"),  # same prompt but for case and space
            pair("new", group="g"),  # same group
            pair("fresh"),
        )
    )
    kept, leaked = check_leak(train, heldout)
    assert [row["prompt"] for row in kept] == ["fresh"]
    assert leaked == 3


def test_fingerprint_sees_content_and_order() -> None:
    base = [pair("a"), pair("b")]
    prints = [fingerprint(rows) for rows in (base, base[::-1], base[:1], [pair("a"), pair("b", "yes.")])]
    assert len(set(prints)) == 4
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert fingerprint(to_dataset(base)) == prints[0]


def test_importing_the_module_loads_neither_torch_nor_datasets() -> None:
    heavy = "{'torch', 'datasets', 'transformers'}"
    code = f"import preflab.data.splits, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
