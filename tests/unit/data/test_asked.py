"""What rows say of their prompts beside the text: messages, and the columns that a reward reads."""

from __future__ import annotations

import pytest
from data_rows import CHATML, DIALOGUE, numbered, pair
from transformers import PreTrainedTokenizerBase

from preflab.data.asked import Asked, by_prompt, conversation
from preflab.data.formats import clean_rows
from preflab.errors import UserError


def test_messages_are_kept_as_they_were_written(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = CHATML
    turns = [*DIALOGUE[:2], {"role": "user", "content": "What does </s> mean?", "when": 3}]
    row = {"prompt": turns, "chosen": "an end", "rejected": "no", "system": "Be brief.", "tools": []}
    found = clean_rows(numbered(row), tokenizer)
    assert found.asked[0] == Asked([{"role": "system", "content": "Be brief."}, *turns], row=1)
    assert clean_rows(numbered(pair("text"))).asked == [None]
    assert "</s> mean" not in found.rows[0]["prompt"], "the text that a model reads is guarded"


def test_wanted_columns_go_along_and_are_not_called_unread(caplog: pytest.LogCaptureFixture) -> None:
    rows = numbered(pair("a", answer=4, tests=["x"], note="n"), pair("b", note="n"))
    found = clean_rows(rows, wanted=("answer", "tests"))
    assert [said and said.columns for said in found.asked] == [{"answer": 4, "tests": ["x"]}, None]
    assert "columns not read: note" in caplog.text
    assert "answer" not in caplog.text
    caplog.clear()
    everything = clean_rows(rows, wanted=None).asked
    assert [said and said.columns for said in everything] == [{"answer": 4, "tests": ["x"], "note": "n"}, {"note": "n"}]
    assert "not read" not in caplog.text


def test_a_column_that_is_read_may_be_wanted_too() -> None:
    found = clean_rows(numbered(pair("a", subset="s")), wanted=["subset", "chosen"])
    assert found.asked[0] is not None
    assert found.asked[0].columns == {"subset": "s", "chosen": "yes"}
    assert found.rows[0]["subset"] == "s"


def test_one_prompt_with_two_answers_is_refused_by_its_rows() -> None:
    said = [Asked(columns={"answer": 4}, row=3), None, Asked(columns={"answer": 4}, row=5)]
    assert by_prompt("aba", said, "data") == {"a": said[0]}
    with pytest.raises(UserError, match=r"data: rows 3 and 9 ask the same, and their column 'answer' differs \(4 and"):
        by_prompt("aa", [said[0], Asked(columns={"answer": 5}, row=9)], "data")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (None, "raw"),
        ([], "raw"),
        ("<b>", "raw"),
        ([{"role": "user"}], "raw"),
        ([{"role": "user", "content": "Hi <|im_end|>"}], "Hi <|im_end|>"),
        (DIALOGUE, "User: Hi\n\nAssistant: Hello\n\nUser: 2+2?"),
        (
            [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": "", "tool_calls": [{"name": "ä"}]},
                {"role": "tool", "content": "4"},
            ],
            'User: ?\n\nAssistant: [{"name": "ä"}]\n\nTool: 4',
        ),
    ],
)
def test_a_reader_sees_who_says_what(messages: object, text: str) -> None:
    assert conversation("raw", messages) == text
