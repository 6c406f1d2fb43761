"""Text as messages: dialogues their turns, anything else one user's message; what a template wrote stays."""

from __future__ import annotations

from typing import Any

import pytest
from data_rows import BOT, CHATML, DIALOGUE, PLAIN, USER, numbered, pair, say
from transformers import PreTrainedTokenizerBase

from preflab.data.formats import Cleaned, clean_rows
from preflab.data.turns import messages_of, without_end

SYSTEM = "system"
WRITTEN = "<|user|>Hi</s>\n<|assistant|>"


@pytest.fixture
def chatty(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = CHATML
    return tokenizer


def read(tokenizer: PreTrainedTokenizerBase, *rows: dict[str, Any], **options: Any) -> Cleaned:
    return clean_rows(numbered(*rows), tokenizer, **options)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (PLAIN, DIALOGUE),
        ("  What is it?\n", [say(USER, "What is it?")]),
        ("Human: Hi\n\nAssistant: Well, ", [say(USER, "Hi"), say(BOT, "Well, ")]),
        ("Human: Hi", [say(USER, "Hi")]),
        (
            "Be kind.\n\nUSER: Hi ASSISTANT: Yo</s>USER: So? ASSISTANT:",
            [say(SYSTEM, "Be kind."), say(USER, "Hi"), say(BOT, "Yo"), say(USER, "So?")],
        ),
        ("System: Be kind.\nHuman: Hi\nAssistant:", [say(SYSTEM, "Be kind."), say(USER, "Hi")]),
        ("Human: a\n\nAssistant:\n\nHuman: b\n\nAssistant:", [say(USER, "a"), say(BOT, ""), say(USER, "b")]),
        ("### Instruction:\nDo it.\n\n### Response:\n", [say(USER, "Do it.")]),
        ("Assistant: Hello.\n\nHuman: Hi\n\nAssistant:", [say(BOT, "Hello."), say(USER, "Hi")]),
        ("What does [INST] mean?", [say(USER, "What does [INST] mean?")]),
    ],
)
def test_text_as_messages(text: str, messages: list[dict[str, str]]) -> None:
    assert messages_of(text) == messages


def test_a_turn_loses_the_end_tokens_behind_it_alone() -> None:
    assert without_end("a </s> b<|im_end|>\n</s> ") == "a </s> b"
    assert without_end("a<stop>", ["<stop>"]) == "a"


def test_text_is_given_to_a_chat_template_exactly_as_messages_are(chatty: PreTrainedTokenizerBase) -> None:
    texts = [pair(PLAIN, " 4", " 5</s>"), {"chosen": PLAIN + " 4", "rejected": PLAIN + " 5"}, pair("Why?", "a", "b")]
    messages = [pair(DIALOGUE, "4", "5"), pair(DIALOGUE, "4", "5"), pair([say(USER, "Why?")], "a", "b")]  # type: ignore[arg-type]
    ours, theirs = read(chatty, *texts), read(chatty, *messages)
    assert ours.rows == theirs.rows
    assert ours.asked == theirs.asked
    assert ours.turns == theirs.turns, "the same groups, so the same splits"


def test_what_becomes_of_text_is_said_once(chatty: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
    read(chatty, pair("a"), pair("b"))
    assert caplog.text.count("2 rows are text: the chat template writes them as messages") == 1
    caplog.clear()
    found = read(chatty, pair("a"), dialogues="text")
    assert found.rows[0]["prompt"] == "a"
    assert "1 rows are text, which is joined as it stands" in caplog.text
    caplog.clear()
    chatty.chat_template = None
    assert read(chatty, pair("a")).rows[0]["prompt"] == "a"
    assert "rows are text" not in caplog.text


def test_what_a_template_wrote_stays(chatty: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
    llama = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    found = read(chatty, pair(WRITTEN), pair("</s>Hi"), pair(llama))
    assert [row["prompt"] for row in found.rows] == [WRITTEN, "</s>Hi", llama]
    assert (found.seen.texts, found.seen.messages) == (3, 0)
    assert "1 rows begin with the markers of another chat template than the model's" in caplog.text
    kept = read(chatty, pair(WRITTEN), pair("x"), dialogues="messages")
    assert kept.bad.reasons.keys() == {
        "a chat template wrote the prompt; --dialogues text, or auto, joins it with its answers as they stand"
    }


def test_special_token_strings_inside_text_are_what_somebody_says(chatty: PreTrainedTokenizerBase) -> None:
    found = read(chatty, pair("What is <|assistant|>?", "It </s> opens a turn.</s>", "no"))
    assert found.rows[0]["prompt"] == "<|user|>What is <\u2060|assistant|>?</s>\n<|assistant|>"
    assert found.rows[0]["chosen"] == "It <\u2060/s> opens a turn.</s>"
    assert read(chatty, pair("a"), pair("b", "</s>", "no")).bad.reasons == {"empty response": [2]}


# ---- a system prompt of the options --------------------------------------------------------------


def test_a_system_prompt_stands_before_dialogues_without_one_and_never_twice(
    chatty: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    own = [say(SYSTEM, "Mine."), say(USER, "c")]
    rows = [pair("a"), pair([say(USER, "b")]), pair(own), pair("d", system="Mine.")]  # type: ignore[arg-type]
    found = read(chatty, *rows, system="Be brief.")
    systems = ["Be brief.", "Be brief.", "Mine.", "Mine."]
    assert [row["prompt"] for row in found.rows] == [
        f"<|system|>{system}</s>\n<|user|>{said}</s>\n<|assistant|>"
        for system, said in zip(systems, "abcd", strict=True)
    ]
    assert "2 dialogues have a system prompt of their own; --system is not put before these" in caplog.text
    alone = read(chatty, pair("a")).turns[0]
    assert found.turns[0] == alone, "it parts no dialogue from another"


def test_a_system_prompt_beside_text_that_stays_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert read(tokenizer, pair(PLAIN), system="Be brief.").rows[0]["prompt"] == f"Be brief.\n\n{PLAIN}"
    tokenizer.chat_template = CHATML
    assert read(tokenizer, pair(WRITTEN), pair("x"), system="Be brief.").bad.reasons == {
        "a system prompt beside a prompt that a chat template wrote: put it into the prompt": [1]
    }


# ---- long prompts --------------------------------------------------------------------------------


def test_a_long_dialogue_keeps_the_last_turns_that_fit(chatty: PreTrainedTokenizerBase) -> None:
    turns = [say(SYSTEM, "S"), *DIALOGUE, say(BOT, "4"), say(USER, "3+3?")]
    limits = {200: turns, 82: [turns[0], *turns[3:]], 50: [turns[0], turns[5]], 5: turns}
    for limit, kept in limits.items():
        found = read(chatty, pair(turns, "6", "7"), fits=lambda text, limit=limit: len(text) <= limit)  # type: ignore[arg-type]
        assert found.asked[0] is not None
        assert found.asked[0].messages == kept
        assert found.seen.lost["turns"] == (kept != turns)
        assert found.rows[0]["chosen"] == "6</s>"
        assert found.turns == read(chatty, pair(turns, "6", "7")).turns, "the group is the whole dialogue's"  # type: ignore[arg-type]
