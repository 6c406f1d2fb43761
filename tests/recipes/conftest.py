"""A small preference file in the tiny model's words, a config in which everything takes a second, one finished run."""

from __future__ import annotations

import fcntl
import json
import shutil
from contextlib import contextmanager

import pytest
from preference_files import preference_rows, write_rows
from recipe_runner import Answer, run

CONFIG = """
threads: 1
seeds: [0]
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
dpo: &dpo
  <<: *stage
  max_steps: 4
trl-dpo: *dpo
ppo:
  learning_rate: 1e-2
  per_device_train_batch_size: 8
  rollout_prompts: 8
  rollout_epochs: 2
  max_steps: 8
  logging_steps: 1
  save_steps: 4
"""


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder for all test processes, and a lock: the first one that wants something makes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "recipes"
    folder.mkdir(exist_ok=True)

    @contextmanager
    def hold():
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    return hold


@pytest.fixture(scope="session")
def options(shared, tiny_model_path):
    """Options that make any recipe run on the tiny model and a small file, both at the same place for all."""
    with shared() as folder:
        if not (folder / "model").is_dir():
            write_rows(folder / "pairs.jsonl", preference_rows(96))
            (folder / "config.yaml").write_text(CONFIG)
            shutil.copytree(tiny_model_path, folder / "model")
    return ["--model", folder / "model", "--dataset", folder / "pairs.jsonl", "--config", folder / "config.yaml"]


@pytest.fixture(scope="session")
def finished(shared, options):
    """An uninterrupted ``compare.py``, run once for all test processes: its folder and what it printed."""
    with shared() as folder:
        answer = folder / "finished.json"
        if not answer.is_file():
            answer.write_text(json.dumps(run("compare.py", *options, "--output", "finished", cwd=folder)))
    return folder / "finished", Answer(*json.loads(answer.read_text()))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, times of change included."""
    return shutil.copytree(finished[0], tmp_path / "run")
