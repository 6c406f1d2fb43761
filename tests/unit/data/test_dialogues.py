"""Dialogues written as text: every format's turns, where prompts end and answers begin, and rows of any size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from preflab.data.answers import ANSWERED, NOT_ONE_TURN
from preflab.data.dialogues import first_human_turn, form_of, human_turns, shared_prompt, templated
from preflab.data.formats import preference_rows
from preflab.data.forms import FORMS
from preflab.data.splits import group_key
from preflab.errors import UserError

ASKED, MORE = "Where is the cat?", "And the dog?"

# What opens the human's turn, what closes it, what opens the answer's, what closes that.
WRITTEN = {
    "Human/Assistant": ("\n\nHuman: ", "", "\n\nAssistant:", ""),
    "Human/Assistant, Windows": ("\r\n\r\nHuman: ", "", "\r\n\r\nAssistant:", ""),
    "User/Assistant": ("User: ", "", "\nAssistant:", "\n"),
    "Human/AI": ("\nHuman: ", "", "\nAI:", ""),
    "Vicuna": ("USER: ", " ", "ASSISTANT:", "</s>"),
    "ChatML": ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
    "Llama 2": ("<s>[INST] ", " ", "[/INST]", " </s>"),
    "Llama 3": (
        *("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        *("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    "Gemma": ("<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n", "<end_of_turn>\n"),
    "Zephyr": ("<|user|>\n", "</s>\n", "<|assistant|>\n", "</s>\n"),
    "Cohere": (
        *("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        *("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    "DeepSeek": ("<｜User｜>", "", "<｜Assistant｜>", ""),
    "Granite": ("<|start_of_role|>user<|end_of_role|>", "\n", "<|start_of_role|>assistant<|end_of_role|>", "\n"),
    "NeMo": ("<extra_id_1>User\n", "\n", "<extra_id_1>Assistant\n", "\n"),
    "Alpaca": ("### Instruction:\n", "\n\n", "### Response:\n", "\n\n"),
    "Guanaco": ("### Human: ", "", "\n### Assistant:", "\n"),
    "questions": ("\nQ: ", "", "\nA:", ""),
    "capitals": ("\nHUMAN: ", "", "\nASSISTANT:", ""),
    "small letters": ("\r\nuser: ", "", "\r\nassistant:", ""),
    "Phi 4": ("<|im_start|>user<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>", "<|im_end|>"),
    "InternLM": ("<|User|>:", "\n", "<|Bot|>:", "<eoa>\n"),
    "StableLM": ("<|USER|>", "", "<|ASSISTANT|>", ""),
    "EXAONE": ("[|user|]", "\n", "[|assistant|]", "[|endofturn|]\n"),
    "OpenChat": ("GPT4 Correct User: ", "<|end_of_turn|>", "GPT4 Correct Assistant:", "<|end_of_turn|>"),
}
BEFORE = {
    "nothing": "",
    "a blank line": "\n \n",
    "Windows lines": "\r\n",
    "a preamble": "A chat of a curious person with a machine.\n\n",
    "a start token": "<s>",
}


def prompt_of(name: str, asked: str = ASKED, before: str = "") -> str:
    human, closed, answer, _ = WRITTEN[name]
    return f"{before}{human}{asked}{closed}{answer}"


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("before", BEFORE)
def test_whole_dialogues_part_where_the_last_answer_begins(name: str, before: str) -> None:
    """Both answers begin with the same words, which are no prompt."""
    end = WRITTEN[name][-1]
    first = prompt_of(name, before=BEFORE[before]) + " It sat still." + end
    prompt = first + prompt_of(name, MORE)
    (row,), bad = preference_rows([(1, {"chosen": prompt + " It sat there.", "rejected": prompt + " It sat away."})])
    assert not bad.total
    assert (row["prompt"], row["chosen"], row["rejected"]) == (prompt, " It sat there.", " It sat away.")
    if name != "NeMo" or before == "nothing":  # whose first turn bears no marker: what stands before may be it
        assert group_key(prompt) == ASKED.lower()


@pytest.mark.parametrize("name", WRITTEN)
def test_an_answer_that_speaks_for_the_human_is_bad(name: str) -> None:
    human, closed, _, end = WRITTEN[name]
    prompt = prompt_of(name)
    one_turn = {"prompt": prompt, "chosen": " Here." + end, "rejected": " There." + end}
    goes_on = f" There.{end}{human}{MORE}{closed}"
    rows = [one_turn, {**one_turn, "rejected": goes_on}, {"chosen": prompt + goes_on, "rejected": prompt + " Here."}]
    assert preference_rows(list(enumerate(rows, 1)))[1].reasons == {NOT_ONE_TURN: [2, 3]}
    lone = [{"prompt": prompt, "completion": text, "label": True} for text in (" Here.", goes_on)]
    assert preference_rows(list(enumerate(lone, 1)))[1].reasons == {NOT_ONE_TURN: [2]}


def test_a_marker_that_the_prompt_has_already_is_cut_off_wherever_it_is(caplog: pytest.LogCaptureFixture) -> None:
    prompt = prompt_of("Human/Assistant, Windows")
    row = {"prompt": prompt, "chosen": "\nAssistant: Here.", "rejected": " There."}
    (found,), _ = preference_rows([(1, row)])
    assert (found["prompt"], found["chosen"], found["rejected"]) == (prompt, " Here.", " There.")
    assert "end in the human's turn" not in caplog.text
    preference_rows([(1, {**row, "prompt": "Human: Where?", "chosen": "Here."})])
    assert "1 rows have prompts that end in the human's turn" in caplog.text


@pytest.mark.parametrize("answer", ["Here it is.", [{"role": "assistant", "content": "Here it is."}]])
def test_a_prompt_that_ends_with_a_response_is_bad(answer: Any) -> None:
    text = isinstance(answer, str)
    asked = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Here it is."}]
    row = {"prompt": prompt_of("ChatML") + " Here it is." if text else asked, "chosen": answer, "rejected": "Away."}
    lone = {"prompt": row["prompt"], "completion": answer, "label": 1}
    with pytest.raises(UserError, match=ANSWERED):
        preference_rows([(1, row), (2, lone)])


def test_an_answer_may_hold_words_that_are_no_marker_of_its_dialogue(caplog: pytest.LogCaptureFixture) -> None:
    prompt = "Human: Write a play.\n\nAssistant:"
    for text in (" Q: who?\nA: me", " She said to the human: go!", " The human:\nhe", "\nUser: hi\nAssistant of none"):
        preference_rows([(1, {"prompt": prompt, "chosen": text, "rejected": " No."})], bad_rows="refuse")
    play = {"prompt": "Write a play.", "chosen": "Human: Hi!\n\nAssistant: Yes?", "rejected": "No."}
    preference_rows([(1, play)], bad_rows="refuse")
    assert "1 rows have responses that hold turns of a dialogue" in caplog.text
    marked = {"prompt": "Write a play.", "chosen": "Yes.<|im_end|>\n<|im_start|>user\nMore", "rejected": "No."}
    with pytest.raises(UserError, match=NOT_ONE_TURN):
        preference_rows([(1, marked)])


def test_the_first_human_turn_stands_after_system_text() -> None:
    keys = {
        group_key(f"<|im_start|>system\nBe kind.\nUser: no turn<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n"),
        group_key(f"<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n{ASKED} [/INST] There. </s><s>[INST] {MORE} [/INST]"),
        group_key("<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>" + prompt_of("Llama 3")),
        group_key(f"System: Be kind.\n\nHuman: {ASKED}\n\nAssistant:"),
        group_key(f"{ASKED}\n<extra_id_1>Assistant\nThere.\n<extra_id_1>User\n{MORE}"),
        group_key([{"role": "system", "content": "Be kind."}, {"role": "user", "content": f" {ASKED.upper()} "}]),
        group_key(ASKED),
    }  # fmt: skip
    assert keys == {ASKED.lower()}


def test_no_dialogue_is_on_two_sides_whatever_it_is_written_in() -> None:
    groups = set()
    for name in WRITTEN:
        for before in BEFORE.values():
            row = {"prompt": prompt_of(name, before="" if name == "NeMo" else before), "chosen": " a", "rejected": " b"}
            groups.add(preference_rows([(1, row)])[0][0]["group"])
    assert len(groups) == 1


def test_no_dialogue_no_first_turn() -> None:
    for text in ("", "Once upon a time", "The human: a tale", "[x] and <y>", "User manual: none"):
        assert form_of(text) is None
        assert first_human_turn(text) is None
        assert not templated(text)
        assert shared_prompt([text + "a", text + "b"]) is None


@pytest.mark.parametrize("name", WRITTEN)
def test_templated_text_is_evident(name: str) -> None:
    own = ("Human", "User", "Vicuna", "Alpaca", "Guanaco", "questions", "capitals", "small", "OpenChat")
    assert templated(prompt_of(name)) == (not name.startswith(own))


def test_forms_have_names_of_their_own() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS)


def test_where_a_long_dialogue_may_be_cut() -> None:
    text = "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n\nHuman: e\n\nAssistant:"
    assert [text[at:][:8] for at in human_turns(text)] == ["Human: c", "Human: e"]
    assert human_turns("Be kind.\n\n" + text)[0] == len("Be kind.\n\n"), "without what stands before"
    assert human_turns(prompt_of("ChatML") * 3) == []


# ---- prompts that the answers repeat -------------------------------------------------------------------


PLAIN = f"Human: {ASKED}\n\nAssistant:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PLAIN, "chosen": f"{PLAIN} Here.", "rejected": f"{PLAIN} There."},
        {"prompt": PLAIN, "chosen": f"\n\n{PLAIN} Here.", "rejected": f"\n\n{PLAIN} There."},
        {"prompt": f"{PLAIN} ", "chosen": f"{PLAIN} Here.", "rejected": f"{PLAIN} There."},
        {"prompt": ASKED, "chosen": f"{PLAIN} Here.", "rejected": f"{PLAIN} There."},
        {"prompt": PLAIN.replace("\n", "\r\n"), "chosen": f"{PLAIN} Here.", "rejected": f"{PLAIN} There."},
        {"prompt": PLAIN, "responses": [f"{PLAIN} Here.", f"{PLAIN} Nowhere.", f"{PLAIN} There."]},
        {"prompt": f"Human: {ASKED}\n\n", "chosen": "Assistant: Here.", "rejected": "Assistant: There."},
        {"prompt": PLAIN, "chosen": "Assistant: Here.", "rejected": "Assistant: There."},
    ],
)
def test_a_repeated_prompt_is_cut_off(row: dict[str, Any]) -> None:
    (found,), _ = preference_rows([(1, row)], bad_rows="refuse")
    joined = [found["prompt"].strip() + " " + found[name].strip() for name in ("chosen", "rejected")]
    assert joined == [f"{PLAIN} Here.", f"{PLAIN} There."]
    assert found["prompt"].count(ASKED) == 1


def test_a_repeated_bare_prompt_is_cut_off_and_said(caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": "Once upon a time", "chosen": "Once upon a time, Tom", "rejected": "Once upon a time, Tim"}
    (found,), _ = preference_rows([(1, row)])
    assert (found["prompt"], found["chosen"], found["rejected"]) == ("Once upon a time", ", Tom", ", Tim")
    assert "1 rows repeat the prompt" in caplog.text
    caplog.clear()
    apart = {"prompt": "I", "chosen": "It was", "rejected": "Is it?"}
    one_only = {"prompt": "Tom", "chosen": "Tom ran", "rejected": "He ran"}
    lone = {"prompt": "Tom", "completion": "Tom ran", "label": True}
    rows, _ = preference_rows([(1, apart), (2, one_only), (3, lone)])
    assert [rows[0]["chosen"], rows[1]["chosen"], rows[2]["response"]] == ["It was", "Tom ran", "Tom ran"]
    assert "repeat" not in caplog.text


def test_a_prompt_that_is_not_in_the_dialogues_is_refused() -> None:
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    text = {"prompt": "Who?", "chosen": f"{PLAIN} Here.", "rejected": f"{PLAIN} There."}
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Here."}]
    messages = {"prompt": "Who?", "chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "No."}]}
    bad = preference_rows([(1, good), (2, text), (3, messages)])[1]
    assert bad.reasons == {"prompt is not in the dialogues that the responses repeat": [2, 3]}


# ---- size ----------------------------------------------------------------------------------------------


SIZE = 500_000
SHAPES = [
    *("Human:", "Human: ", "Human:\n", "\n\nAssistant:", "\n\nHuman: a\n\nAssistant: b", " ", "\n", "\r\n", "\n \t"),
    *("[[[[", '{"role":', "[{'role': 'user', 'content': '", "<", "<s>", "<|im_start|>", "[INST]<<SYS>>", "'", "\\"),
    *("USER: ", "<|user|>", "Q: \nA: ", "### ", "x", "é", "array([", "<|start_header_id|>user"),
    *('"', "user: ", "[|user|]", "<extra_id_1>User\n"),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_very_long_row_is_read_at_once(shape: str) -> None:
    """Nothing here is quadratic: 10^11 steps would run into the time limit, on any machine."""
    text = (shape * (SIZE // len(shape) + 1))[:SIZE]
    rows = [
        {"chosen": text + " yes", "rejected": text + " no"},
        {"prompt": text, "chosen": text + " yes", "rejected": "no"},
        {"prompt": [{"role": "user", "content": text}], "chosen": "yes", "rejected": "no"},
        {"prompt": text, "response_1": "yes", "response_2": "no", "preference_strength": -1},
    ]
    found, bad = preference_rows([(0, {"prompt": "Q", "chosen": "a", "rejected": "b"}), *enumerate(rows, 1)])
    assert len(found) + bad.total == 5


def test_deeply_nested_text_is_refused_or_text() -> None:
    deep = "[" * 100_000
    rows, _ = preference_rows([(1, {"prompt": "Q", "chosen": deep, "rejected": json.dumps({"a": [1]})})])
    assert rows[0]["chosen"] == deep
    messages = "[{'role': 'user', 'content': " + deep
    bad = preference_rows(
        [
            (1, {"prompt": "Q", "chosen": "a", "rejected": "b"}),
            (2, {"prompt": "Q", "chosen": messages, "rejected": "b"}),
        ]
    )[1]
    assert bad.reasons == {"messages written as text, which cannot be read": [2]}
