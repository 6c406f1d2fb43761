"""Dialogues in the real world: what a chat template makes of them, and what is kept of them beside the text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from real_rows import open_rows, pair

from preflab.data.asked import Asked

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
