"""What both sides do: stages and their sizes, the same rows as files, the same base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS = 64, 48
BETA, KL_COEFFICIENT = 0.1, 0.1
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


class Stage(NamedTuple):
    """A stage of training.

    Attributes:
        steps: optimiser steps.
        batch: rows of one: demonstrations, pairs or sampled responses.
        rate: peak learning rate, which falls to 0 by a cosine.
    """

    steps: int
    batch: int
    rate: float


class Work(NamedTuple):
    """What is done for each seed, on the rows of the embedded world.

    Attributes:
        shape: of the base, random and ending a response after some 20 tokens; none: the embedded base itself.
        sft: fine-tuning of the policy that the others start from.
        reward: the reward model.
        dpo: DPO on the pairs of the reward model.
        ppo: PPO on their prompts.
        rollout: responses that PPO samples at a time.
        epochs: its passes over them.
        prompts: held-out prompts that start, DPO and PPO answer once.
        pairs: held-out pairs that reward model, DPO and PPO rank.
        quick: take the rows of the world's quick form.
    """

    shape: str
    sft: Stage
    reward: Stage
    dpo: Stage
    ppo: Stage
    rollout: int
    epochs: int
    prompts: int
    pairs: int
    quick: bool = False

    def scaled(self, share: float) -> Work:
        """Return the same with a share of every stage's steps; PPO's are whole rollouts."""
        per_rollout = self.epochs * self.rollout // self.ppo.batch

        def some(stage: Stage, unit: int = 1) -> Stage:
            return stage._replace(steps=unit * max(1, round(share * stage.steps / unit)))

        return self._replace(
            sft=some(self.sft), reward=some(self.reward), dpo=some(self.dpo), ppo=some(self.ppo, per_rollout)
        )


# `embedded` is what recipes/compare.py does of itself; the others are as much of it as a few minutes take.
WORKS = {
    "embedded": Work(
        shape="",
        sft=Stage(62, 32, 5e-3),
        reward=Stage(750, 16, 3e-3),
        dpo=Stage(125, 32, 1e-3),
        ppo=Stage(120, 64, 1.5e-3),
        rollout=128,
        epochs=2,
        prompts=400,
        pairs=1000,
    ),
    "llama-5.6m": Work(
        shape="llama-5.6m",
        sft=Stage(24, 32, 1e-3),
        reward=Stage(48, 16, 1e-3),
        dpo=Stage(24, 32, 5e-4),
        ppo=Stage(8, 64, 5e-4),
        rollout=128,
        epochs=2,
        prompts=128,
        pairs=128,
    ),
    "llama-60m": Work(
        shape="llama-60m",
        sft=Stage(8, 32, 5e-4),
        reward=Stage(16, 16, 5e-4),
        dpo=Stage(8, 32, 2e-4),
        ppo=Stage(4, 32, 2e-4),
        rollout=64,
        epochs=2,
        prompts=64,
        pairs=64,
    ),
    # Each row once, and so the same tokens on both sides.
    "toy": Work(
        shape="llama-toy",
        sft=Stage(6, 100, 1e-3),
        reward=Stage(12, 100, 1e-3),
        dpo=Stage(12, 100, 1e-3),
        ppo=Stage(4, 8, 1e-3),
        rollout=16,
        epochs=1,
        prompts=8,
        pairs=300,
        quick=True,
    ),
}


class Job(NamedTuple):
    """A work of one side.

    Attributes:
        work: what is done.
        seeds: for each of which it is done, start and reward model included.
        model: folder of the base.
        rows: folder of the rows, as files.
        out: folder that the side may fill.
    """

    work: Work
    seeds: tuple[int, ...]
    model: str
    rows: str
    out: str

    @classmethod
    def read(cls, text: str) -> Job:
        """Return the job that `written` gave."""
        values = json.loads(text)
        stages = {name: Stage(*x) if isinstance(x, list) else x for name, x in values["work"].items()}
        return cls(**{**values, "work": Work(**stages), "seeds": tuple(values["seeds"])})

    def written(self) -> str:
        """Return the job as JSON."""
        return json.dumps({**self._asdict(), "work": self.work._asdict()})


def prepare(work: Work, folder: Path) -> tuple[str, str]:
    """Write base and rows into a folder; return the folders of both.

    A response goes on where its prompt ends, as TRL's trainers join the two.
    """
    from preflab.worlds import WorldConfig
    from preflab.worlds.reviews import build

    cache = Path("~/.cache/preflab").expanduser()
    world = build(WorldConfig(quick=work.quick, max_prompt_tokens=MAX_PROMPT_TOKENS), cache)
    rows = folder / "rows"
    rows.mkdir(parents=True)
    renamed = {
        "demonstrations": [{"prompt": x["prompt"], "completion": f" {x['response']}"} for x in world.demonstrations],
        "pairs": [_pair(x) for x in world.pairs],
        "heldout": [_pair(x) for x in list(world.heldout)[: work.pairs]],
        "prompts": [{"prompt": x["prompt"]} for x in list(world.eval_prompts)[: work.prompts]],
    }
    for name, found in renamed.items():
        (rows / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return _base(work, Path(world.model), folder / "base"), str(rows)


def _pair(row: Mapping[str, Any]) -> dict[str, str]:
    return {"prompt": row["prompt"], "chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"}


def _base(work: Work, embedded: Path, folder: Path) -> str:
    """Return the embedded base, or a random one of a shape whose vocabulary begins with the world's words."""
    if not work.shape:
        return str(embedded)
    from transformers import AutoTokenizer

    from benchmarks.shapes import SHAPES, make_model

    make_model(folder, work.shape, end_rate=0.05)
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {f"w{i}": i for i in range(len(tokenizer), SHAPES[work.shape].vocabulary)}
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(folder)
