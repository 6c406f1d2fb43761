"""Rows with one response and a label, and pairs made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from data_rows import BOT, CHATML, DIALOGUE, PLAIN, USER, numbered, pair, say
from transformers import PreTrainedTokenizerBase

from preflab.data.formats import preference_rows
from preflab.data.splits import paired


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
