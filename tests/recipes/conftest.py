"""A small preference file in the tiny model's words, a config in which everything takes a second, one finished run."""

from __future__ import annotations

import fcntl
import json
import random
import shutil

import pytest
from recipe_runner import Answer, run

CONFIG = """
threads: 1
max_prompt_tokens: 16
max_response_tokens: 8
eval_prompts: 16
eval_pairs: 16
lora_rank: 4
sft: &stage
  learning_rate: 1e-2
  per_device_train_batch_size: 8
  max_steps: 3
  logging_steps: 1
reward:
  learning_rate: 1e-2
  per_device_train_batch_size: 8
  max_steps: 8
  logging_steps: 1
  save_steps: 3
dpo: *stage
trl-dpo: *stage
ppo:
  learning_rate: 1e-2
  per_device_train_batch_size: 8
  rollout_prompts: 8
  rollout_epochs: 2
  max_steps: 8
  logging_steps: 1
  save_steps: 4
"""


def preference_rows(count, seed=0):
    """Chosen responses say early words, rejected ones late words."""
    draw = random.Random(seed)

    def words(first, last, length):
        return " ".join(f"word{draw.randrange(first, last)}" for _ in range(length))

    return [
        {
            "prompt": words(0, 24, 5),
            "chosen": " " + words(0, 8, draw.randint(2, 6)),
            "rejected": " " + words(16, 24, draw.randint(2, 6)),
        }
        for _ in range(count)
    ]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Folder with ``pairs.jsonl`` and ``config.yaml``."""
    folder = tmp_path_factory.mktemp("material")
    write_rows(folder / "pairs.jsonl", preference_rows(96))
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="session")
def options(material, tiny_model_path):
    """Options that make any recipe run on the tiny model and the small file."""
    return ["--model", tiny_model_path, "--dataset", material / "pairs.jsonl", "--config", material / "config.yaml"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id, options):
    """An uninterrupted ``compare.py``, run once for all test processes: its folder and what it printed."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = shared / "finished.json"
        if not answer.is_file():
            done = run("compare.py", *options, "--output", "finished", cwd=shared)
            answer.write_text(json.dumps(done))
    return shared / "finished", Answer(*json.loads(answer.read_text()))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, times of change included."""
    return shutil.copytree(finished[0], tmp_path / "run")
