"""Dialogues in the real world: what a chat template makes of them, and what is kept of them beside the text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real_rows import open_rows, pair, source

from preflab.data.asked import Asked
from preflab.errors import UserError
from preflab.worlds import WorldConfig

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EVERY = ("pairs", "heldout", "gold_pairs", "prompts", "eval_prompts")


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "chatml.jinja"
    path.write_text(CHATML)
    return str(path)


def asking(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {i}?"}]


def test_the_messages_of_every_split_are_known_by_the_text_that_a_model_reads(
    model: str, template: str, tmp_path: Path
) -> None:
    world = open_rows(model, tmp_path, [pair(i, prompt=asking(i)) for i in range(40)], chat_template=template)
    prompts = {prompt for split in EVERY for prompt in getattr(world, split)["prompt"]}
    assert set(world.asked) == prompts
    assert all(
        prompt == f"<|user|>{said.messages[0]['content']}</s>\n<|assistant|>"
        for prompt, said in world.asked.items()
        if said.messages
    )
    assert not {"asked", "messages"} & {*world.pairs.column_names, *world.fingerprints}


def test_columns_that_a_reward_reads_are_part_of_the_data(model: str, tmp_path: Path) -> None:
    world = open_rows(model, tmp_path, [pair(i) for i in range(40)])
    assert not world.asked
    prompt = world.prompts["prompt"][0]
    found = [replace(world, asked={prompt: Asked(columns={"answer": n})}).fingerprints for n in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert {name: value for name, value in found[0].items() if name != "asked"} == world.fingerprints


def test_text_and_messages_are_one_world(model: str, template: str, tmp_path: Path) -> None:
    texts = [pair(i, prompt=f"Human: Question {i}?\n\nAssistant:") for i in range(40)]
    ours = open_rows(model, tmp_path, texts, chat_template=template)
    theirs = open_rows(model, tmp_path, [pair(i, prompt=asking(i)) for i in range(40)], chat_template=template)
    assert ours.fingerprints == theirs.fingerprints
    assert ours.chat
    assert not open_rows(model, tmp_path, texts, chat_template=template, dialogues="text").chat
    assert not open_rows(model, tmp_path, texts, chat_template=template, special_tokens="tokens").chat


def test_a_system_prompt_of_the_options(
    model: str, template: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, said = [pair(i) for i in range(40)], tmp_path / "system.txt"
    said.write_text("Be brief.\n")
    world = open_rows(model, tmp_path, rows, chat_template=template, system=f"@{said}")
    assert all(p.startswith("<|system|>Be brief.</s>\n<|user|>") for p in world.pairs["prompt"])
    assert all(asked.messages and asked.messages[0]["content"] == "Be brief." for asked in world.asked.values())
    assert (
        world.fingerprints == open_rows(model, tmp_path, rows, chat_template=template, system="Be brief.").fingerprints
    )
    assert "system prompt" not in caplog.text
    default = Path(template).with_name("default.jinja")
    default.write_text("{% if messages[0]['role'] != 'system' %}<|system|>I help.</s>\n{% endif %}" + CHATML)
    open_rows(model, tmp_path, rows, chat_template=str(default))
    assert "dialogues without a system prompt get that of the chat template, 'I help.'; --system gives" in caplog.text


@pytest.mark.parametrize("lost", ["{{ raise_exception('System role not supported') }}", ""])
def test_a_template_without_a_system_role(model: str, tmp_path: Path, lost: str) -> None:
    template = tmp_path / "gemma.jinja"
    template.write_text(
        "{% for m in messages %}{% if m['role'] == 'system' %}" + lost + "{% else %}<|{{ m['role'] }}|>"
        "{{ m['content'] }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    rows = [pair(i) for i in range(40)]
    assert open_rows(model, tmp_path, rows, chat_template=str(template)).chat
    with pytest.raises(UserError, match="has no place for a system prompt; leave --system out"):
        open_rows(model, tmp_path, rows, chat_template=str(template), system="Be brief.")


def test_a_long_dialogue_of_messages_keeps_its_last_turns(model: str, template: str, tmp_path: Path) -> None:
    before = [{"role": "user", "content": "First? " * 60}, {"role": "assistant", "content": "Yes."}]
    rows = [pair(i, prompt=[*before, *asking(i)], group=i) for i in range(40)]
    world = open_rows(model, tmp_path, rows, chat_template=template, long_prompts="last-turns")
    assert source(world)["cut to their last turns"] == 40
    assert all(prompt.startswith("<|user|>Question") for prompt in world.prompts["prompt"])
    assert {asked.messages[0]["content"][:5] for asked in world.asked.values() if asked.messages} == {"Quest"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialogues": "messages"}, "--dialogues messages needs a chat template"),
        ({"dialogues": "messages", "special_tokens": "tokens"}, "in messages, special-token strings are text"),
        ({"system": " "}, "system is empty"),
        ({"system": "@/nowhere"}, "system '@/nowhere' cannot be read"),
    ],
)
def test_options_that_cannot_be_followed(model: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        open_rows(model, tmp_path, [pair(i) for i in range(40)], **options)


@pytest.mark.parametrize("world", ["reviews", "exact"])
@pytest.mark.parametrize("option", [{"dialogues": "text"}, {"system": "Be brief."}])
def test_worlds_of_their_own_texts_take_neither(world: Any, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"the {world} world makes its own texts and takes no {next(iter(option))}"):
        WorldConfig(world=world, **option)
