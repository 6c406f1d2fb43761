"""Whole stages and every kind of subject on the pretend accelerator; run by `test_placement.py` in its own process.

The base is loaded onto the device as onto a GPU, from files; what is then trained, sampled, scored and judged must be
what it is on the CPU.
"""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, NAME, WAITS

import preflab.model.base
import preflab.model.classifiers
import preflab.training.rehearsal
from preflab.disk.stages import Run
from preflab.eval.harness.reference_samples import sample_rewards
from preflab.eval.judges import HeldOutRewardModel, JudgeSpec
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import Ground, PolicySubject, RewardSubject
from preflab.experiment.experiment import Experiment
from preflab.method.configured import make_method
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

LORA = LoraSettings(lora_rank=4, lora_alpha=8, dtype="float32")
CONFIG = EvalConfig(eval_prompts=6, eval_pairs=8, eval_batch_size=4, oracle_samples=4)
TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}


@contextmanager
def placed(device):
    """Have models loaded there, and tell the Trainer's library, which does not find the device by itself."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (preflab.model.base, preflab.training.rehearsal, preflab.model.classifiers):
            patch.setattr(module, "default_device", lambda: str(device))
        if torch.device(device).type == NAME:
            patch.setenv("ACCELERATE_TORCH_DEVICE", str(device))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_path):
    """Pairs, and adapters that say something: a policy, one of another rank, and the same of reward models."""
    folder, draw = tmp_path_factory.mktemp("subjects"), np.random.default_rng(0)

    def words(n):
        return " ".join(f"word{i}" for i in draw.integers(0, 24, n))

    rows = [{"prompt": words(4), "chosen": " " + words(3), "rejected": " " + words(5)} for _ in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rank in (("policy", 4), ("policy-2", 2), ("reward", 4), ("reward-2", 2)):
        role = name.partition("-")[0]
        lora = LoraSettings(lora_rank=rank, lora_alpha=8)
        roles = Roles(preflab.model.base.load_base(str(tiny_model_path), lora), lora, (role,))
        generator = torch.Generator().manual_seed(rank)
        with torch.no_grad():
            for parameter in roles.parameters_of(role):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        roles.save(role, folder / name)
    return folder


def open_experiment(folder, model, run, lora=LORA):
    data = str(folder / "pairs.jsonl")
    config = WorldConfig(model=str(model), dataset=data, max_prompt_tokens=16, max_response_tokens=8)
    return Experiment(Run(run), config, lora, run)


# ---- evaluation --------------------------------------------------------------------------------------

SUBJECTS = {
    "the reference": lambda folder, model: PolicySubject(None),
    "an adapter": lambda folder, model: PolicySubject(str(folder / "policy")),
    "an adapter of another rank": lambda folder, model: PolicySubject(str(folder / "policy-2")),
    "a model": lambda folder, model: PolicySubject(str(model), adapter=False),
    "the best of 4": lambda folder, model: PolicySubject(None, best_of=4),
    "a reward model": lambda folder, model: RewardSubject(str(folder / "reward")),
    "a classifier": lambda folder, model: RewardSubject(str(folder / "reward-2")),
}


def evaluated(subject, folder, model, run, device):
    with placed(device):
        experiment = open_experiment(folder, model, run)
        reward = RewardSubject(str(folder / "reward")).play(experiment)
        judge = JudgeSpec("a judge", "key", (), lambda roles: HeldOutRewardModel(roles, [folder / "reward"], 4))
        return subject.evaluate(Ground(experiment, CONFIG, reward=reward, judge=judge), "subject")


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_has_the_same_figures_on_the_device(name, folder, tiny_model_path, tmp_path):
    subject = SUBJECTS[name](folder, tiny_model_path)
    expected = evaluated(subject, folder, tiny_model_path, tmp_path / "cpu", "cpu")
    WAITS.clear()
    found = evaluated(subject, folder, tiny_model_path, tmp_path / "device", DEVICE)
    assert WAITS, "nothing was computed on the device"
    assert_alike(found.samples, expected.samples)
    assert_alike(found.preferences, expected.preferences)


def assert_alike(found, expected):
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == {k: pytest.approx(v, abs=1e-4) if isinstance(v, float) else v for k, v in theirs.items()}


def test_the_references_samples_are_judged_on_the_device(folder, tiny_model_path, tmp_path):
    found = {}
    for device in ("cpu", DEVICE):
        with placed(device):
            experiment = open_experiment(folder, tiny_model_path, tmp_path / torch.device(device).type)
            roles = experiment.open_roles(("policy",), sft=None, reward=None)
            judge = HeldOutRewardModel(roles, [folder / "reward"], 4)
            found[device] = sample_rewards(experiment, roles, judge, CONFIG)
    np.testing.assert_allclose(found[DEVICE], found["cpu"], atol=1e-4)


# ---- training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages(folder, tiny_model_path, tmp_path_factory):
    """SFT and a reward model, trained on the device."""
    experiment = open_experiment(folder, tiny_model_path, tmp_path_factory.mktemp("run"))
    with placed(DEVICE):
        sft = experiment.train("sft", make_method("sft", TRAIN))
        return experiment, sft, experiment.train("reward", make_method("reward", TRAIN), sft=sft)


ROLLOUTS = {"rollout_prompts": 4}
STAGES = {
    "dpo": {},
    "ppo": ROLLOUTS,
    "trl-sft": {},
    "trl-dpo": {},
    "trl-kto": {},
    "trl-reward": {},
    "trl-rloo": ROLLOUTS,
    "trl-grpo": ROLLOUTS,
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_trained_on_the_device(name, stages):
    experiment, sft, reward = stages
    with placed(DEVICE):
        WAITS.clear()
        method = make_method(name, {**TRAIN, **STAGES[name]})
        stage = experiment.train(name, method, sft=sft, reward=reward, snapshots=1)
    assert stage.record["steps"] == 2
    assert np.isfinite(stage.record["final"]["loss"])
    assert WAITS["_local_scalar_dense"], "no loss was read from the device"


# `bf16` is not among them: the library refuses it on devices that it does not know.
VARIANTS = {
    "a base in half precision": (LoraSettings(lora_rank=4, lora_alpha=8), {}),
    "activations computed twice": (LORA, {"gradient_checkpointing": True}),
    "a value on the policy's adapter": (LORA, {"value_trunk": "policy"}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_ppo_is_trained_on_the_device_with(name, folder, tiny_model_path, tmp_path):
    lora, settings = VARIANTS[name]
    with placed(DEVICE):
        experiment = open_experiment(folder, tiny_model_path, tmp_path, lora)
        reward = RewardSubject(str(folder / "reward")).play(experiment)
        stage = experiment.train("ppo", make_method("ppo", {**TRAIN, **ROLLOUTS, **settings}), reward=reward)
    assert np.isfinite(stage.record["final"]["loss"])
