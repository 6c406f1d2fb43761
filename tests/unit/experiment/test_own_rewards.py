"""Methods that maximise a reward of one's own on a data set with columns: what they train on, and what they log."""

from __future__ import annotations

import json
import random

import pytest

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.experiment.foundation import Foundation
from preflab.experiment.settings import RewardSettings
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}
SAMPLED = {**TRAIN, "rollout_prompts": 4, "rollout_epochs": 1}
REWARD = """
calls = []
def found(response, answer): return float(answer in response.split())
def batch(completions, answer, **kwargs):
    calls.append(len(completions))
    return [float(a in c.split()) for c, a in zip(completions, answer)]
"""


@pytest.fixture
def write(tmp_path):
    draw = random.Random(0)

    def words(low, high):
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(low, high)))

    (tmp_path / "mine.py").write_text(REWARD)
    rows = [
        {"prompt": f"word{i % 24} " + words(2, 6), "chosen": " " + words(1, 6), "rejected": " " + words(1, 6)}
        for i in range(40)
    ]
    lines = [{**row, "answer": f"word{i % 24}"} for i, row in enumerate(rows)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


@pytest.fixture
def foundation(tiny_model_path, tmp_path, write):
    def make(reward, **settings):
        config = WorldConfig(
            model=str(tiny_model_path),
            dataset=str(tmp_path / "pairs.jsonl"),
            max_prompt_tokens=16,
            max_response_tokens=8,
            reward=reward.replace("mine.py", str(tmp_path / "mine.py")),
        )
        experiment = Experiment(Run(tmp_path / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), tmp_path)
        methods = make_method("sft", TRAIN), make_method("reward", TRAIN)
        return Foundation(experiment, *methods, RewardSettings(**settings))

    return make


def logged(stage):
    return [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]


def stages(foundation):
    return {path.name.rpartition("-")[0] for path in foundation.experiment.run.stages.iterdir()}


@pytest.mark.parametrize("name", ["rloo", "ppo", "trl-grpo"])
def test_a_function_is_maximised_and_no_reward_model_is_trained(name, foundation):
    made = foundation("mine.py:found")
    rewards = made.rewards(None)
    stage = made.experiment.train(name, make_method(name, SAMPLED), reward=rewards)
    assert all(0.0 <= row["reward"] <= 1.0 for row in logged(stage))
    assert stages(made) == {name}
    assert rewards.trained is None


def test_a_batched_function_gets_a_rollout_whole(foundation):
    made = foundation("mine.py:batch")
    made.experiment.train("rloo", make_method("rloo", {**SAMPLED, "samples_per_prompt": 3}), reward=made.rewards(None))
    calls = made.experiment.world.reward.parts[0].scores.caller.function.__globals__["calls"]
    assert len(calls) == 2 + 2  # tried twice beforehand; then once a rollout, equal responses once
    assert all(5 < call <= 12 for call in calls[2:])


@pytest.mark.parametrize("name", ["rloo", "trl-grpo"])
def test_parts_of_a_sum_are_logged_apart(name, foundation):
    made = foundation("mine.py:found=2,model=0.5")
    rewards = made.rewards(None)
    assert [stage.name for stage in rewards.trained.stages] == ["reward"]
    for row in logged(made.experiment.train(name, make_method(name, SAMPLED), reward=rewards)):
        assert row["reward"] == pytest.approx(2 * row["reward/found"] + 0.5 * row["reward/model"], abs=1e-5)
    assert {"reward", name} <= stages(made)


def test_a_trained_reward_model_may_be_asked_for_all_the_same(foundation):
    made = foundation("mine.py:found", policy_reward="model")
    assert made.rewards(None).stages
    assert made.experiment.world.gold is not None, "the function judges"


def test_a_changed_function_is_another_stage(foundation, tmp_path):
    first = foundation("mine.py:found").rewards(None).key
    assert foundation("mine.py:found").rewards(None).key == first
    (tmp_path / "mine.py").write_text(REWARD + "# mended\n")
    assert foundation("mine.py:found").rewards(None).key != first


@pytest.mark.parametrize(
    ("reward", "policy_reward", "kind", "found"),
    [
        (None, "auto", "real", "model"),
        ("a:f", "auto", "real", "gold"),
        ("a:f", "model", "real", "model"),
        ("a:f", "auto", "function", "model"),
        ("a:f,model", "auto", "function", "gold"),
        ("endpoint", "auto", "real", "gold"),
        (None, "gold", "real", "or --reward; real data have none"),
        ("endpoint", "model", "real", "nobody reads --reward endpoint"),
        ("a:f,model", "model", "function", "nobody reads --reward a:f,model"),
    ],
)
def test_what_policies_maximise(reward, policy_reward, kind, found):
    data = {"dataset": "owner/name"} if kind == "real" else {}
    world = WorldConfig(world=kind, model="m", reward=reward, **data)
    settings = RewardSettings(policy_reward=policy_reward)
    if found in ("model", "gold"):
        assert settings.maximised(world) == found
    else:
        with pytest.raises(UserError, match=found):
            settings.maximised(world)
