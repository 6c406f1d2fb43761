"""The function world of a model with a chat template: prompts are messages, and responses end a turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preflab.data.encoding import Encoder, load_tokenizer
from preflab.errors import UserError
from preflab.worlds import World, WorldConfig, open_world
from preflab.worlds.function.prompts import user_opening

USER, BOT, SYSTEM = "word1", "word2", "word3"
TEMPLATE = (
    "{% for m in messages %}{{ {'user': 'word1', 'assistant': 'word2', 'system': 'word3'}[m['role']] }} "
    "{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}word2 {% endif %}"
)
REWARDS = """
def words(prompt, response): return 0.2 * len(set(response.split()))
def wanted(prompt, response, answer): return float(answer in response.split())
def seen(messages, response): return float(len(messages)) + len(response) / 1e4
"""


@pytest.fixture
def open_chat(tiny_model_path: Path, tmp_path: Path) -> Any:
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "chat.jinja").write_text(TEMPLATE)

    def opened(rows: list[Any] | None, reward: str = "words", **options: Any) -> World:
        if rows is not None:
            path = tmp_path / ("prompts.txt" if isinstance(rows[0], str) else "prompts.jsonl")
            path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
            options["prompts"] = str(path)
        options = {
            "max_pairs": 48,
            "max_prompt_tokens": 32,
            "max_response_tokens": 48,
            "heldout_fraction": 0.4,
            **options,
        }
        place, template = f"{tmp_path / 'rewards.py'}:{reward}", str(tmp_path / "chat.jinja")
        config = WorldConfig(model=str(tiny_model_path), reward=place, chat_template=template, **options)
        return open_world(config, tmp_path / "cache")

    return opened


TEXTS = [f"word{i} word{i + j}" for i in range(4, 8) for j in (1, 2)]
MESSAGES = [{"prompt": [{"role": "user", "content": text}]} for text in TEXTS]


def test_texts_and_messages_are_written_by_the_template(open_chat: Any, caplog: pytest.LogCaptureFixture) -> None:
    worlds = [open_chat(rows) for rows in (TEXTS, [{"prompt": text} for text in TEXTS], MESSAGES)]
    prompts = [{*world.prompts["prompt"], *world.eval_prompts["prompt"]} for world in worlds]
    assert prompts[0] == prompts[1] == prompts[2] <= {f"{USER} {text}</s>{BOT} " for text in TEXTS}
    assert worlds[0].fingerprints == worlds[1].fingerprints == worlds[2].fingerprints
    assert all(world.chat for world in worlds)
    assert worlds[0].asked.keys() == prompts[0]
    assert [m["content"] for said in worlds[2].asked.values() for m in said.messages or ()]
    assert caplog.text.count("8 rows are text: the chat template writes them as messages") == 2
    assert not open_chat(TEXTS, dialogues="text").chat


def test_a_system_prompt_and_columns_go_along(open_chat: Any) -> None:
    rows = [{"prompt": text, "answer": f"word{i}", "note": "n"} for i, text in enumerate(TEXTS)]
    world = open_chat(rows, "wanted", system="word9")
    assert all(prompt.startswith(f"{SYSTEM} word9</s>{USER} ") for prompt in world.prompts["prompt"])
    assert all(said.columns.keys() == {"answer"} for said in world.asked.values())
    for row in world.pairs:
        answer = world.asked[row["prompt"]].columns["answer"]
        assert row["chosen_reward"] == float(answer in row["chosen"].split())
    with pytest.raises(UserError, match=r"asks for the column 'answer', and .*prompts.jsonl has none"):
        open_chat(MESSAGES, "wanted")
    assert {round(row["chosen_reward"]) for row in open_chat(MESSAGES, "seen", system="word9").pairs} == {2}


def test_without_prompts_the_model_asks_in_its_users_place(open_chat: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = open_chat(None, system="word9", max_pairs=24)
    assert "instructions are sampled from the model itself, in its user's place" in caplog.text
    assert world.facts["prompts"]["from"] == "instructions that the model wrote in its user's place"
    assert world.chat
    for prompt in [*world.prompts["prompt"], *world.eval_prompts["prompt"]]:
        assert prompt.startswith(f"{SYSTEM} word9</s>{USER} ")
        assert prompt.endswith(f"</s>{BOT} ")
        said = world.asked[prompt].messages or ()
        assert [m["role"] for m in said] == ["system", "user"]
        assert "</s>" not in said[1]["content"]


def test_the_opening_of_a_users_turn(tiny_model_path: Path) -> None:
    config = WorldConfig(model=str(tiny_model_path), reward="m:f", system="word9")
    encoder = Encoder(load_tokenizer(str(tiny_model_path)))
    assert user_opening(config, encoder) is None
    encoder.tokenizer.chat_template = TEMPLATE
    assert user_opening(config, encoder) == f"{SYSTEM} word9</s>{USER} "


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*MESSAGES, {"prompt": "</s>word1"}], "some prompts are messages, others text that stays text"),
        ([*MESSAGES, {"prompt": [{"role": "user", "content": 3}]}], r"that are no prompt: not text: 1 \(row 9\)"),
        ([*MESSAGES, {"prompt": MESSAGES[0]["prompt"], "answer": "b"}], None),
    ],
)
def test_prompts_that_cannot_be_used(open_chat: Any, rows: list[Any], message: str | None) -> None:
    if message is None:
        assert open_chat(rows).chat, "a column that no reward reads may differ"
        rows = [{**row, "answer": f"word{i}"} for i, row in enumerate(rows)]
        with pytest.raises(UserError, match=r"rows 1 and 9 ask the same, and their column 'answer' differs"):
            open_chat(rows, "wanted")
        return
    with pytest.raises(UserError, match=message):
        open_chat(rows)
