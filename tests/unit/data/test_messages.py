"""Messages: whatever they were written as, and as the text that a chat template makes of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from preflab.data import rendering
from preflab.data.cells import DEEPEST, structure
from preflab.data.formats import preference_rows
from preflab.data.messages import text_or_messages
from preflab.data.reading import RowError, read_rows

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLING = (
    "{% if tools %}[{{ tools | length }} tools]{% endif %}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'][0]['function']['name'] }}(){% endif %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ASKED = {"role": "user", "content": "It's \"late\",\nisn't it?"}
SAID = {"role": "assistant", "content": "Yes: [it] is {so}."}
DIALOGUE = [ASKED, SAID]


@pytest.fixture
def tokenizer(tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """One whose chat template a test may set."""
    found = copy.deepcopy(tiny_tokenizer)
    found.chat_template = CHATML
    return found


def share(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


@pytest.mark.parametrize(
    "value",
    [
        DIALOGUE,
        tuple(DIALOGUE),
        np.array(DIALOGUE, dtype=object),
        {"messages": DIALOGUE},
        {"conversations": DIALOGUE},
        json.dumps(DIALOGUE),
        json.dumps(DIALOGUE, indent=2),
        json.dumps({"messages": DIALOGUE}),
        json.dumps(json.dumps(DIALOGUE)),
        json.dumps(repr(DIALOGUE)),
        repr(DIALOGUE),
        str(np.array(DIALOGUE, dtype=object)),
        repr(np.array(DIALOGUE, dtype=object)),
        [share("human", ASKED["content"]), share("gpt", SAID["content"])],
        repr([share("human", ASKED["content"]), share("gpt", SAID["content"])]),
        [{"role": "Human ", "text": ASKED["content"]}, {"role": "BOT", "text": SAID["content"]}],
        [ASKED, {**SAID, "tool_calls": None, "name": float("nan"), "text": None}],  # columns of a parquet struct
        [{**ASKED, "content": [{"type": "text", "text": ASKED["content"], "image": None}]}, SAID],
        [ASKED, {**SAID, "content": ["Yes: ", {"type": "text", "text": "[it] is {so}."}]}],
    ],
)
def test_messages_are_messages_whatever_they_were_written_as(value: Any) -> None:
    assert text_or_messages(value) == DIALOGUE


@pytest.mark.parametrize(
    "text",
    [
        "[1] see below",
        '"role": said the director',
        json.dumps('A "role": none'),
        "[{'role'",
        '{"answer": 42}',
        '[{"content": "no role"}]',
        "{'text': 'an object'}",
        "[{role: user}]",
        "",
    ],
)
def test_other_text_stays_text(text: str) -> None:
    assert text_or_messages(text) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('[{"role": "user", "content": "cut off', "messages written as text"),
        ("[{'role': 'user', 'content': f()}]", "messages written as text"),
        ('{"role": ', "messages written as text"),
        ([{"role": "owner", "content": "x"}], "unknown role"),
        ([{"content": "x"}], "without role"),
        ([{"role": "user", "content": None}], r"null \(role user\)"),
        ([{"role": "user", "content": 3}], "not text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "what is not text"),
        ([{"from": "function_call", "value": "x"}], "unknown role"),
        ([DIALOGUE], "not text"),
        (["x"], "not text"),
        (3, "not text"),
        (b"x", "not text"),
    ],
)
def test_what_is_neither_text_nor_messages(value: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        text_or_messages(value)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [1, -2.5, 3e4, None, True, False, "a", 'it\'s "b"', "\\n\n\t", "😀 é"],
        {"a": [{"b": ["c"]}], "d": {}},
        [[[]]],
    ],
)
def test_structures_as_json_or_python_write_them(value: Any) -> None:
    assert structure(json.dumps(value)) == structure(repr(value)) == structure(f" {value!r}\n") == value


@pytest.mark.parametrize(
    "text",
    [
        *("[", "]", "[1", "(1]", "{1: 2}", "{'a'}", "[__import__('os')]", "[1] [2]", "'a' 'b'", "['a", "[a]"),
        *("array(1, 2)", "(" * (DEEPEST + 1) + ")" * (DEEPEST + 1), "[" * 100_000, "['\n']"),
    ],
)
def test_what_is_no_structure_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        structure(text)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("write", [json.dumps, repr, lambda value: value])
def test_messages_in_every_column_of_every_file(tmp_path: Path, suffix: str, write: Any) -> None:
    other = {**SAID, "content": "No."}
    row = {"prompt": write([ASKED]), "chosen": write(DIALOGUE), "rejected": write([other])}
    ranked = {"prompt": write([ASKED]), "responses": write([[SAID], [other]])}
    lone = {"prompt": write([ASKED]), "completion": write([SAID]), "label": True}
    frame = pd.DataFrame([row, ranked, lone])
    path = tmp_path / f"d.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    rows, bad = preference_rows(read_rows(str(path)))
    assert not bad.total
    assert [r["prompt"] for r in rows] == [f"Human: {ASKED['content']}\n\nAssistant:"] * 3
    assert [r.get("chosen", r.get("response")) for r in rows] == [" " + SAID["content"]] * 3
    assert rows[0]["rejected"] == rows[1]["rejected"] == " No."


def test_a_ranking_may_mix_ways_to_write_messages() -> None:
    row = {
        "prompt": "Q",
        "responses": [json.dumps([SAID]), [{**SAID, "content": "Maybe."}], repr({**SAID, "content": "No."})],
    }
    (found,), _ = preference_rows([(1, row)])
    assert found["responses"] == [" " + SAID["content"], " Maybe.", " No."]


# ---- prefill -------------------------------------------------------------------------------------------


PREFILL = [{"role": "user", "content": "A tale?"}, {"role": "assistant", "content": "Once"}]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (" upon", " more"),
        ([{"role": "assistant", "content": " upon"}], [{"role": "assistant", "content": " more"}]),
        (
            [PREFILL[0], {"role": "assistant", "content": "Once upon"}],
            [PREFILL[0], {"role": "assistant", "content": "Once more"}],
        ),
    ],
)
def test_an_answer_goes_on_in_the_turn_that_the_prompt_began(
    tokenizer: PreTrainedTokenizerBase, chosen: Any, rejected: Any
) -> None:
    row = {"prompt": PREFILL, "chosen": chosen, "rejected": rejected}
    (found,), _ = preference_rows([(1, row)], tokenizer)
    assert found["prompt"] == "<|user|>A tale?</s>\n<|assistant|>Once"
    assert (found["chosen"], found["rejected"]) == (" upon</s>", " more</s>")
    (found,), _ = preference_rows([(1, row)])
    assert (found["prompt"], found["chosen"]) == ("Human: A tale?\n\nAssistant: Once", " upon")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": PREFILL, "chosen": "Once upon", "rejected": "Once more"}, "<|user|>A tale?</s>\n<|assistant|>Once"),
        (
            {
                "prompt": [PREFILL[0], {"role": "assistant", "content": "Once "}],
                "responses": [[{"role": "assistant", "content": "Once upon"}], "Once even", "Once more"],
            },
            "<|user|>A tale?</s>\n<|assistant|>Once ",
        ),
        (
            {"prompt": "Q: A tale?\r\nA: Once", "chosen": " Once upon", "rejected": "Once more"},
            "<|user|>A tale?</s>\n<|assistant|>Once",
        ),
    ],
)
def test_answers_that_repeat_how_the_prompt_begins_them(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    (found,), _ = preference_rows([(1, row)], tokenizer)
    assert found["prompt"] == prompt
    said = [found[name].removesuffix("</s>").strip() for name in ("chosen", "rejected")]
    assert said == ["upon", "more"]
    assert "1 rows begin their responses with the beginning of an answer" in caplog.text
    caplog.clear()
    alike = {"prompt": "Q: A tale?\nA: On", "chosen": "Once upon", "rejected": "Once more"}
    for kept in ({"prompt": PREFILL, "chosen": "Once upon", "rejected": "No."}, alike):
        assert preference_rows([(1, kept)], tokenizer)[0][0]["chosen"].startswith("Once upon")
    assert "begin their responses" not in caplog.text, "not both do, or words only begin alike"


def test_a_template_that_cannot_go_on_in_a_turn_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    row = {"prompt": PREFILL, "chosen": " upon", "rejected": " more"}
    plain = {"prompt": PREFILL[:1], "chosen": "a", "rejected": "b"}
    (reason,) = preference_rows([(1, plain), (2, row)], tokenizer)[1].reasons
    assert "chat template" in reason


# ---- tools ---------------------------------------------------------------------------------------------


CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
CALLED = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "look", "content": "rain"},
]
TOOLS = [{"type": "function", "function": {"name": "look"}}]
ANSWERED = {"prompt": CALLED, "chosen": "It rains.", "rejected": "No."}


def test_calls_and_tools_reach_a_template_that_writes_them(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = CALLING
    (row,), _ = preference_rows([(1, {**ANSWERED, "tools": TOOLS})], tokenizer)
    assert row["prompt"] == "[1 tools]<|user|>Rain?</s>\n<|assistant|>look()</s>\n<|tool|>rain</s>\n<|assistant|>"
    (row,), _ = preference_rows([(1, {**ANSWERED, "tools": json.dumps(TOOLS * 2)})], tokenizer)
    assert row["prompt"].startswith("[2 tools]<|user|>")
    calls = {"prompt": CALLED[:1], "chosen": CALLED[1:2], "rejected": "No.", "tools": TOOLS}
    (row,), _ = preference_rows([(1, calls)], tokenizer)
    assert (row["chosen"], row["rejected"]) == ("look()</s>", "No.</s>")


def test_calls_and_tools_that_would_be_lost_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    good = {"prompt": CALLED[:1], "chosen": "It rains.", "rejected": "No."}
    rows = [good, ANSWERED, {**good, "tools": TOOLS}, {**good, "chosen": CALLED[1:2]}, {**good, "tools": "no list"}]
    found = preference_rows(list(enumerate(rows, 1)), tokenizer)[1]
    assert found.reasons == {
        "tool calls: the chat template does not write them": [2, 4],
        "tools: the chat template does not write them": [3],
        "tools is not a list": [5],
    }
    plainly = preference_rows(list(enumerate(rows[:4], 1)))[1]
    assert plainly.reasons == {"tool calls need a chat template that writes them": [2, 3, 4]}


LINES = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
FORGETFUL = "{% for m in messages if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
REWRITES = "{{ messages[0]['content'] if messages|length < 2 else 'Other' }}: "


@pytest.mark.parametrize("blank", ["", " "])
def test_what_opens_an_answer_is_the_prompts_where_the_template_knows_of_no_asking(
    tokenizer: PreTrainedTokenizerBase, blank: str
) -> None:
    tokenizer.chat_template = LINES
    row = {"prompt": "Q", "chosen": [{**SAID, "content": blank + "Yes."}], "rejected": [{**SAID, "content": "No."}]}
    (found,), _ = preference_rows([(1, row)], tokenizer)
    assert found["prompt"] == "<|user|>Q</s>\n<|assistant|>"
    assert (found["chosen"], found["rejected"]) == (f"{blank}Yes.</s>", "No.</s>")


def test_a_template_that_leaves_the_system_message_out_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = FORGETFUL
    row = {"prompt": [ASKED], "chosen": [SAID], "rejected": [{**SAID, "content": "No."}]}
    bad = preference_rows([(1, row), (2, {**row, "system": "Be kind."})], tokenizer)[1]
    assert bad.reasons == {rendering.LEFT_OUT: [2]}


def test_a_template_that_writes_another_prompt_once_an_answer_follows(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.chat_template = REWRITES
    row = {"prompt": [ASKED], "chosen": [SAID], "rejected": [{**SAID, "content": "No."}]}
    (found, _), _ = preference_rows([(1, row)] * 2, tokenizer)
    assert (found["prompt"], found["chosen"]) == (f"{ASKED['content']}: ", SAID["content"])
    assert "2 rows get another prompt from the chat template once an answer follows" in caplog.text


def test_what_no_template_writes_of_messages_is_named(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    said = {**SAID, "reasoning_content": "Hm.", "weight": 1}
    row = {"prompt": [{**ASKED, "name": "Tom"}], "chosen": [said], "rejected": [{**said, "content": "No."}]}
    preference_rows([(1, row)] * 2, tokenizer)
    assert caplog.text.count("columns not read") == 1
    named = caplog.text.partition("columns not read: ")[2].strip()
    assert sorted(named.split(", ")) == ["name of messages", "reasoning_content of messages", "weight of messages"]
    caplog.clear()
    tokenizer.chat_template = CHATML + "{# weight, name, reasoning_content #}"
    preference_rows([(1, row)], tokenizer)
    assert "not read" not in caplog.text


def test_tools_beside_text_are_named(caplog: pytest.LogCaptureFixture) -> None:
    preference_rows([(1, {"prompt": "Q", "chosen": "a", "rejected": "b", "tools": TOOLS})])
    assert "columns not read: tools" in caplog.text


# ---- templates -----------------------------------------------------------------------------------------


def test_whatever_a_template_raises_is_a_bad_row(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'x' %}{{ messages[0]['content'] + 1 }}{% endif %}" + CHATML
    )
    good = {"prompt": [{"role": "user", "content": "y"}], "chosen": "a", "rejected": "b"}
    bad = {**good, "prompt": [{"role": "user", "content": "x"}]}
    (reason,) = preference_rows([(1, good), (2, bad)], tokenizer)[1].reasons
    assert reason.startswith("refused by the chat template (")
    tokenizer.chat_template = "{% if messages[0]['content'] == 'y' %}" + CHATML + "{% endif %}"
    assert preference_rows([(1, good), (2, bad)], tokenizer)[1].reasons == {
        "the chat template writes nothing for the prompt": [2]
    }


def test_every_content_goes_through_one_function(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def louder(value: Any, tokenizer: Any) -> Any:
        return value and value.upper()

    monkeypatch.setattr(rendering, "guard", louder)
    row = {"prompt": "q", "system": "s", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}
    (found,), _ = preference_rows([(1, row)], tokenizer)
    assert (found["prompt"], found["chosen"]) == ("<|system|>S</s>\n<|user|>Q</s>\n<|assistant|>", "A</s>")
    assert preference_rows([(1, row)])[0][0]["prompt"] == "S\n\nHuman: Q\n\nAssistant:"
