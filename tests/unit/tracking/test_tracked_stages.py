"""Stages of an experiment as runs of a tracker, whoever's trainer trains them."""

from __future__ import annotations

import json
import random

import pytest
import stub_trackers

from preflab.disk.stages import Run
from preflab.experiment.experiment import Experiment
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.tracking.runs import Tracking
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}
ROLLOUTS = {**TRAIN, "rollout_prompts": 4, "rollout_epochs": 1}


@pytest.fixture
def experiment(tiny_model_path, tmp_path):
    draw = random.Random(0)

    def words():
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(1, 6)))

    rows = [{"prompt": words(), "chosen": " " + words(), "rejected": " " + words()} for _ in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = WorldConfig(
        model=str(tiny_model_path),
        dataset=str(tmp_path / "pairs.jsonl"),
        max_prompt_tokens=16,
        max_response_tokens=8,
    )
    return Experiment(Run(tmp_path / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), tmp_path)


def test_every_stage_that_trains_is_a_run_and_no_other(experiment, monkeypatch):
    package = stub_trackers.wandb(monkeypatch)
    experiment.tracking = Tracking(("wandb",), "mine-abc", experiment.run.folder)
    reward = experiment.train("reward", make_method("trl-reward", TRAIN))
    for name, values in (("dpo", TRAIN), ("trl-dpo", TRAIN), ("ppo", ROLLOUTS)):
        experiment.train(f"{name}-seed0", make_method(name, values), reward=reward)
        experiment.train(f"{name}-seed0", make_method(name, values), reward=reward)  # reused
    experiment.train("best-of-n-seed0", make_method("best-of-n"), reward=reward)
    assert [run.name for run in package.runs] == ["reward", "dpo-seed0", "trl-dpo-seed0", "ppo-seed0"]
    assert {run.ended for run in package.runs} == {0}
    assert {run.about["group"] for run in package.runs} == {"mine-abc"}
    for run in package.runs:
        assert [row["train/global_step"] for row in run.logged if "train/loss" in row] == [1, 2], run.name
        assert run.about["config"]["data"]["splits"]["pairs"]["rows"] > 0


def test_tracking_is_in_no_key_and_changes_no_weight(experiment, monkeypatch, tmp_path):
    plain = experiment.train("dpo-seed0", make_method("dpo", TRAIN))
    weights = (plain.folder / "policy" / "adapter_model.safetensors").read_bytes()
    stub_trackers.wandb(monkeypatch)
    other = Experiment(Run(tmp_path / "other"), experiment.world_config, experiment.lora, tmp_path)
    other.tracking = Tracking(("wandb",), "mine-abc", other.run.folder)
    tracked = other.train("dpo-seed0", make_method("dpo", TRAIN))
    assert tracked.key == plain.key
    assert (tracked.folder / "policy" / "adapter_model.safetensors").read_bytes() == weights
