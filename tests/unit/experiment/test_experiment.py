"""Stages that methods share: reference log-probabilities, reward models, ensembles of them."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch

from preflab.algorithms.rloo import RLOO
from preflab.data.batches import collate
from preflab.disk.stages import Run, content_hash
from preflab.errors import UserError
from preflab.eval.judges import planted
from preflab.experiment.experiment import Experiment
from preflab.experiment.rewards import PlantedRewards, Rewards
from preflab.experiment.splits import keeps_reference
from preflab.method.configured import Method, make_method
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training.reference import ReferenceLogps
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}


def write_pairs(path, count=40):
    draw = random.Random(0)

    def words(low, high):
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(low, high)))

    rows = [{"prompt": words(2, 6), "chosen": " " + words(1, 6), "rejected": " " + words(1, 6)} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def experiment(tiny_model_path, tmp_path):
    config = WorldConfig(
        model=str(tiny_model_path),
        dataset=str(write_pairs(tmp_path / "pairs.jsonl")),
        max_prompt_tokens=16,
        max_response_tokens=8,
    )
    return Experiment(Run(tmp_path / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), tmp_path)


def folders(experiment, pattern):
    return sorted(experiment.run.stages.glob(pattern))


# ---- reference log-probabilities ---------------------------------------------------------------------


def test_kept_reference_logps_are_those_of_the_role(experiment):
    sft = experiment.train("sft", make_method("sft", TRAIN))
    kept = experiment.reference_logps(experiment.pairs, sft)
    roles = experiment.open_roles(("reference",), sft=sft, reward=None)
    rows = [5, 0, 7]
    batch = collate([experiment.pairs[row] for row in rows], 0)
    with torch.no_grad():
        expected = roles(batch, ("reference",)).reference_logps
    torch.testing.assert_close(kept.spread(rows, batch), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad(), roles.active("none"):
        bare = roles.scorer.logps(batch)
    assert (bare - expected).abs().max() > 1e-3, "the base itself is another policy"


def test_kept_reference_logps_are_shared_by_methods_seeds_and_beta(experiment):
    sft = experiment.train("sft", make_method("sft", TRAIN))
    whole = {**TRAIN, "max_steps": -1}
    for beta, seed in ((0.1, 0), (0.1, 1), (0.5, 0)):
        method = make_method("dpo", {**whole, "beta": beta})
        experiment.train(f"dpo-{beta}-{seed}", method, seed=seed, sft=sft)
    experiment.train("ipo", make_method("ipo", whole), sft=sft)
    assert len(folders(experiment, "reference-*")) == 1
    experiment.train("from-base", make_method("dpo", whole))
    assert len(folders(experiment, "reference-*")) == 2, "another start is another reference"


def test_training_on_kept_reference_logps_is_training_on_the_role(experiment, monkeypatch):
    sft = experiment.train("sft", make_method("sft", TRAIN))
    method = make_method("dpo", {**TRAIN, "max_steps": 6})
    kept = experiment.train("kept", method, sft=sft)
    assert len(folders(experiment, "reference-*")) == 1
    monkeypatch.setattr("preflab.experiment.experiment.keeps_reference", lambda method, rows: False)
    computed = experiment.train("computed", method, sft=sft)
    lines = [(stage.folder / "metrics.jsonl").read_text().splitlines() for stage in (kept, computed)]
    assert len(lines[0]) == 6
    for one, two in zip(*(map(json.loads, part) for part in lines), strict=True):
        for name in ("loss", "margin", "chosen_logps"):
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5)
    assert json.loads(lines[0][-1])["margin"] != 0.0


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"max_steps": 12}, False),
        ({"max_steps": 13}, True),
        ({"max_steps": 6, "gradient_accumulation_steps": 2}, False),
        ({"num_train_epochs": 0.25, "max_steps": -1}, False),
        ({"num_train_epochs": 0.5, "max_steps": -1}, True),
        ({"max_steps": 1, "budget": 10.0, "budget_kind": "tokens"}, True),
    ],
)
def test_the_reference_of_all_rows_is_kept_for_runs_that_read_half_of_them(settings, kept):
    assert keeps_reference(make_method("dpo", {**TRAIN, **settings}), 100) == kept
    assert not keeps_reference(make_method("simpo", {**TRAIN, **settings}), 100), "it has no reference"


def test_reference_logps_of_other_groups_are_refused(experiment):
    kept = experiment.reference_logps(experiment.pairs, None)
    with pytest.raises(ValueError, match="reference log-probabilities for"):
        ReferenceLogps(kept.flat[:-1], experiment.pairs)


# ---- rewards -----------------------------------------------------------------------------------------


def test_an_ensemble_is_what_the_policy_learns_from(experiment):
    members = [experiment.train(f"reward-{s}", make_method("reward", TRAIN), seed=s) for s in (0, 1)]
    batch = collate(experiment.pairs[:4], 0)

    def rewards(source):
        roles = experiment.open_roles(("reward",), sft=None, reward=source)
        with torch.no_grad():
            return roles(batch, ("reward",)).rewards

    each = torch.stack([rewards(member) for member in members])
    worst = Rewards.ensemble(members, "worst")
    torch.testing.assert_close(rewards(worst), each.amin(0))
    assert not torch.allclose(each[0], each[1])
    keys = {worst.key, Rewards.ensemble(members, "mean").key, *(Rewards.of(member).key for member in members)}
    assert len(keys) == 4
    settings = {"rollout_prompts": 4, "rollout_epochs": 1, **TRAIN}
    stage = experiment.train("ppo", make_method("ppo", settings), reward=worst)
    assert torch.isfinite(torch.tensor(stage.record["final"]["reward"]))


def test_a_planted_reward_sees_the_texts_of_tokens(experiment):
    def count_words(prompts, responses):
        return [
            len(prompt.split()) - len(response.split()) for prompt, response in zip(prompts, responses, strict=True)
        ]

    texts = [row["prompt"] for row in experiment.world.pairs]
    prompts = {tuple(experiment.encoder.prompt(text)): text for text in texts}
    planted = PlantedRewards(count_words, experiment.tokenizer, prompts, "words")
    groups = experiment.pairs[:3]
    groups[1] = groups[1]._replace(response_ids=groups[1].response_ids[:1])
    rewards = planted(collate(groups, 0))
    for group, found in zip(groups, rewards.tolist(), strict=True):
        row = experiment.world.pairs[group.row]
        expected = [len(row["prompt"].split()) - len(row[name].split()) for name in ("chosen", "rejected")]
        assert found == (expected if len(group.response_ids) == 2 else [expected[0], 0.0])


def test_a_world_without_planted_reward_says_so(experiment):
    with pytest.raises(UserError, match="no planted reward"):
        experiment.gold_reward()


def test_a_reworded_note_makes_no_other_stage(experiment, monkeypatch):
    def keys(**changed):
        monkeypatch.setattr(experiment, "world", replace(experiment.world, gold=count, gold_key="count", **changed))
        spec = planted(experiment.world)
        assert spec is not None
        return content_hash(experiment.identity()), experiment.gold_reward().key, spec.key

    def count(prompts, responses):
        return [0.0] * len(prompts)

    first = keys()
    assert keys(facts={"notes": ["said in other words"]}) == first
    monkeypatch.setattr(experiment, "world", replace(experiment.world, gold_key="another"))
    assert experiment.gold_reward().key != first[1]


def test_a_function_can_be_the_reward_of_a_method_with_values(experiment):
    settings = {"rollout_prompts": 8, "rollout_epochs": 1, **TRAIN, "max_steps": 4}

    def length(batch):
        return batch.response_mask.sum(-1).float()

    with pytest.raises(UserError, match="needs an attribute 'key'"):
        experiment.train("ppo", make_method("ppo", settings), reward=length)
    length.key = "length"
    stage = experiment.train("ppo", make_method("ppo", settings), reward=length)
    lines = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["reward"] == pytest.approx(line["response_length"]) for line in lines if "reward" in line)


# ---- settings that could not work ------------------------------------------------------------------------


def test_kto_needs_another_response_in_its_batch():
    with pytest.raises(UserError, match="at least 2"):
        make_method("kto", {"per_device_train_batch_size": 1})
    make_method("kto", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2})


def test_early_stop_needs_the_metric_it_reads():
    class Silent(RLOO):
        metrics = {"policy_loss": "surrogate"}

    config = RLOO.Config(stop_kl=0.1)
    with pytest.raises(UserError, match="approx_kl"):
        Method("silent", Silent, config, TrainConfig())
    Method("rloo", RLOO, config, TrainConfig())


def test_a_reward_model_is_no_policy_to_start_from(experiment):
    stage = experiment.train("reward", make_method("reward", TRAIN))
    roles = experiment.open_roles(("policy",), sft=None, reward=None)
    with pytest.raises(UserError, match="score head"):
        roles.start("policy", stage.folder / "reward")


def test_kept_reference_logps_round_as_the_policy_does(experiment):
    method = make_method("dpo", {**TRAIN, "bf16": True, "max_steps": 1})
    stage = experiment.train("half", method)
    line = json.loads((stage.folder / "metrics.jsonl").read_text().splitlines()[0])
    full = experiment.reference_logps(experiment.pairs, None)
    half = experiment.reference_logps(experiment.pairs, None, bf16=True)
    assert (full.flat - half.flat).abs().max() > 1e-3, "bfloat16 rounds"
    assert abs(line["margin"]) < 1e-3, "policy and reference agree before the first step"


def test_ratios_start_at_one_in_bfloat16_too(experiment):
    settings = {"rollout_prompts": 4, "rollout_epochs": 2, **TRAIN, "bf16": True}
    reward = experiment.train("reward", make_method("reward", TRAIN))
    stage = experiment.train("ppo", make_method("ppo", settings), reward=reward)
    line = json.loads((stage.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["ratio"] == pytest.approx(1.0, abs=1e-6)
