"""Dialogues of a real instruct model, to the token; `PREFLAB_SMOLLM2` names the folder of SmolLM2-135M-Instruct."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from preflab.data.encoding import load_tokenizer
from preflab.disk.stages import Run
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.worlds import World, WorldConfig, open_world

FOLDER = os.environ.get("PREFLAB_SMOLLM2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="PREFLAB_SMOLLM2 names no folder of SmolLM2-135M-Instruct"),
]
END = "<|im_end|>"
EARLIER = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
SPLITS = ("pairs", "heldout", "gold_pairs")


def asking(i: int, what: str = "Answer with one number.") -> list[dict[str, str]]:
    return [*(EARLIER if i % 2 else []), {"role": "user", "content": f"What is {i} + {i}? {what}"}]


def text(messages: list[dict[str, str]]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "\n\n".join(f"{names[m['role']]}: {m['content']}" for m in messages) + "\n\nAssistant:"


def config(folder: Path, prompts: list[Any], **options: Any) -> WorldConfig:
    rows = [{"prompt": prompt, "chosen": f"It is {2 * i}.", "rejected": "No."} for i, prompt in enumerate(prompts)]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return WorldConfig(model=str(FOLDER), dataset=str(path), max_response_tokens=48, **options)


def opened(folder: Path, prompts: list[Any], **options: Any) -> World:
    return open_world(config(folder, prompts, **options), folder)


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("write", [list, text])
def test_what_is_fed_is_what_the_template_writes(tmp_path: Path, system: str | None, write: Any) -> None:
    tokenizer = load_tokenizer(str(FOLDER))
    world = opened(tmp_path, [write(asking(i)) for i in range(40)], system=system)
    lead = [{"role": "system", "content": system}] if system else []
    whole = {tuple(m["content"] for m in asking(i)): [*lead, *asking(i)] for i in range(40)}
    for split in SPLITS:
        for row, group in zip(getattr(world, split), world.encoded[split], strict=True):
            messages = list(world.asked[row["prompt"]].messages or ())
            assert messages == whole[tuple(m["content"] for m in messages[len(lead) :])]
            wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert group.prompt_ids == wanted
            said = row["chosen"].removesuffix(END)
            answered = tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": said}], return_dict=False
            )
            assert group.prompt_ids + group.response_ids[0] == answered[: len(wanted) + len(group.response_ids[0])]
            assert group.response_ids[0][-1] == tokenizer.convert_tokens_to_ids(END)


def test_a_user_who_writes_an_end_token_ends_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(FOLDER))
    world = opened(tmp_path, [asking(i, f"Say {END} in words.") for i in range(40)])
    for group in world.encoded["pairs"]:
        turns = 1 + sum(tokenizer.decode([token]) == "<|im_start|>" for token in group.prompt_ids[1:])
        assert group.prompt_ids.count(tokenizer.convert_tokens_to_ids(END)) == turns - 1
        assert f"Say {END} in words." in tokenizer.decode(group.prompt_ids)


def test_sampled_answers_end_their_turn(tmp_path: Path) -> None:
    experiment = Experiment(
        Run(tmp_path / "run"), config(tmp_path, [asking(i) for i in range(40)]), LoraSettings(), tmp_path
    )
    with torch.no_grad():
        roles = Roles(experiment.load_base(), LoraSettings())
        samples = experiment.sampler()(roles, "policy", experiment.prompts[:6], k=1, temperature=0.3, seed=1)
    assert samples.ended.any(), "some answer of one number ends within 48 tokens"
    drawn = samples.batch.response_ids[:, 0], samples.batch.response_mask[:, 0], samples.ended[:, 0]
    for ids, mask, ended in zip(*drawn, strict=True):
        said = experiment.tokenizer.decode(ids[mask])
        assert said.endswith(END) == bool(ended)
        assert said.count(END) <= 1
