"""Recipes from where a person is: the model as it is, an adapter, a reward model; and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from recipe_runner import read, run_warm, stages

FEW = (
    "--algorithms",
    "dpo,ppo",
    "--max-steps",
    "2",
    "--oracle-samples",
    "0",
    "--baseline-draws",
    "1",
    "--report",
    "false",
)


def names(folder):
    return {name.rpartition("-")[0] for name in stages(folder)}


@pytest.fixture(scope="module")
def brought(options, tmp_path_factory):
    """Adapters that say something: a policy of rank 2, and a reward model."""
    from preflab.model.base import load_base
    from preflab.model.roles import Roles
    from preflab.settings.training import LoraSettings

    folder, lora = tmp_path_factory.mktemp("brought"), LoraSettings(lora_rank=2, use_rslora=True)
    for role in ("policy", "reward"):
        roles = Roles(load_base(str(options[1]), lora), lora, (role,))
        with torch.no_grad():
            for parameter in roles.parameters_of(role):
                parameter.add_(0.1)
        roles.save(role, folder / role)
    (folder / "reward" / "normalisation.json").unlink()
    return folder


def test_nothing_is_trained_that_a_person_has(options, brought, tmp_path):
    given = ("--sft", brought / "policy", "--reward-model", brought / "reward", "--gold-fraction", "0")
    answer = run_warm("compare.py", *options, *FEW, *given, "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "rank 2, alpha 32 (rsLoRA); the settings'" in answer.err
    comparison = read(tmp_path / "run" / "comparison.json")
    assert (list(comparison["methods"]), comparison["baseline"]) == (["start", "dpo", "ppo"], "start")
    assert comparison["methods"]["start"]["train"] is None
    assert comparison["reward_model"]["heldout_accuracy"] is not None
    assert {"start", "reward"} < names(tmp_path / "run")
    assert not {"sft", "judge"} & names(tmp_path / "run")
    (start,) = (tmp_path / "run" / "stages").glob("start-*")
    (ppo,) = (tmp_path / "run" / "stages").glob("ppo-seed0-*")
    weights = "policy/adapter_model.safetensors"
    assert (start / weights).read_bytes() == (brought / weights).read_bytes()
    assert json.loads((ppo / "policy" / "adapter_config.json").read_text())["r"] == 2
    again = ("--models", "mine=run", "--judge", brought / "reward", "--output", "judged", "--report", "false")
    judged = run_warm("evaluate.py", *options, *again, cwd=tmp_path)
    assert judged.status == 0, judged.err
    evaluation = read(tmp_path / "judged" / "evaluation.json")
    assert evaluation["reference"].endswith(f"{start.name}/policy")
    assert "TRAINED AGAINST" in evaluation["judge"]["warning"]


@pytest.mark.parametrize(
    ("recipe", "wrong", "parts"),
    [
        ("compare.py", ("--sft", "nowhere"), ("--sft takes none, train or an adapter", "nowhere")),
        ("compare.py", ("--sft", "REWARD"), ("--sft", "reward adapter")),
        ("compare.py", ("--sft", "MODEL"), ("--sft", "give it as --model")),
        ("compare.py", ("--sft", "train", "--algorithms", "dpo,sft"), ("sft is compared anyway",)),
        ("compare.py", ("--reward-model", "POLICY"), ("--reward-model", "policy adapter")),
        ("compare.py", ("--reward-model", "REWARD", "--reward-ensemble", "2"), ("reward_ensemble", "reward_model")),
        ("evaluate.py", ("--models", "a=POLICY", "--sft", "train"), ("nothing is trained here",)),
        ("reward_model.py", ("--reward-model", "REWARD"), ("--reward-model", "leave it out")),
        ("dpo.py", ("--reward-model", "REWARD", "--evaluate", "false"), ("--reward-model", "leave it out")),
    ],
)
def test_what_could_not_be_used_is_refused(options, brought, tmp_path, recipe, wrong, parts):
    places = {"REWARD": brought / "reward", "POLICY": brought / "policy", "MODEL": options[1]}
    given = [str(places.get(part, part)).replace("a=POLICY", f"a={places['POLICY']}") for part in wrong]
    answer = run_warm(recipe, *options, *given, "--output", "run", cwd=tmp_path)
    assert answer.status == 2, answer
    for part in parts:
        assert part in answer.err
    assert not (tmp_path / "run").exists()
