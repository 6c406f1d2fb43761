"""What training spends is what its passes did; a budget ends it, and an interruption changes neither."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
import torch
from tiny import KilledError, dying_after, make_groups, train

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.kto import KTO, KTOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.sft import SFT, SFTConfig
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.eval.conformance.workbench import PAD, make_roles
from preflab.experiment.experiment import Experiment
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training import costs as costs_module
from preflab.training import trainer as trainer_module
from preflab.training.budget import Budget, spent_by, under_budget
from preflab.training.callbacks import StopAtBudget
from preflab.training.offline import OfflineSource
from preflab.training.reference import ReferenceLogps
from preflab.worlds import WorldConfig

# ---- a run's record ----------------------------------------------------------------------------------


def test_record_of_an_offline_run(tmp_path):
    groups = make_groups()
    _, record, _ = train(DPO(DPOConfig()), tmp_path, groups=groups, per_device_train_batch_size=4, max_steps=8)
    responses = sum(len(ids) for group in groups for ids in group.response_ids)
    prompts = sum(len(group.prompt_ids) for group in groups)
    assert (record.trained_tokens, record.tokens) == (2 * responses, 2 * (responses + prompts)), "two epochs"
    assert (record.prompts, record.pairs, record.responses, record.sampled_tokens) == (32, 32, 64, 0)


@pytest.mark.parametrize(
    ("algorithm", "responses"), [(SFT(SFTConfig()), 16), (KTO(KTOConfig()), 16)], ids=["sft", "kto"]
)
def test_what_makes_no_pairs(algorithm, responses, tmp_path):
    groups = [g._replace(feedback={"desirable": float(g.row % 2)}) for g in make_groups(size=1)]
    _, record, _ = train(algorithm, tmp_path, groups=groups, per_device_train_batch_size=4, max_steps=4)
    assert (record.prompts, record.responses, record.pairs) == (16, responses, 0)


def test_record_of_an_on_policy_run(tmp_path):
    algorithm = PPO(PPOConfig(rollout_prompts=8, samples_per_prompt=2, rollout_epochs=2))
    _, record, _ = train(algorithm, tmp_path, per_device_train_batch_size=4, max_steps=8)
    assert record.trained_tokens == 2 * record.sampled_tokens, "two passes over each rollout"
    assert (record.prompts, record.responses, record.pairs) == (32, 64, 0)


def test_kept_reference_scores_cost_what_making_them_cost_and_only_once(tmp_path):
    groups, roles = make_groups(12), make_roles()
    before = roles.work.flops
    kept = ReferenceLogps.compute(roles, groups, PAD, "test")
    price = roles.work.flops - before
    assert price > 0

    def spent(start_step, steps, reference):
        settings = TrainConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2)
        source = OfflineSource(groups, settings, PAD, 5, reference=reference, roles=roles)
        before = roles.work.flops
        list(itertools.islice(source.batches(start_step), 2 * steps))
        return roles.work.flops - before

    assert spent(0, 4, kept) == price, "read twice, paid once"
    assert 0 < spent(1, 4, kept) < price, "an interrupted run goes on paying where it stopped"
    assert spent(0, 1, kept) + spent(1, 1, kept) == price
    assert spent(2, 4, kept) == spent(0, 4, None) == 0


# ---- budgets -----------------------------------------------------------------------------------------


RUNS = {
    "dpo": (lambda: DPO(DPOConfig()), {}),
    "ppo": (lambda: PPO(PPOConfig(rollout_prompts=4, rollout_epochs=2)), {}),
}
OPTIONS = {"per_device_train_batch_size": 4, "lr_scheduler_type": "cosine"}


@pytest.mark.parametrize("kind", ["tokens", "flops"])
@pytest.mark.parametrize("name", RUNS)
def test_training_stops_after_the_step_that_spends_the_budget(name, kind, tmp_path):
    make, _ = RUNS[name]
    # Steps so small that none changes what is sampled: a schedule by steps and one by budget are not quite the same.
    small = {**OPTIONS, "learning_rate": 1e-6}
    free = getattr(train(make(), tmp_path / "free", **small, max_steps=3)[1], kind)

    def under(amount):
        options = {**small, "budget": float(amount), "budget_kind": kind, "max_steps": 1}
        return train(make(), tmp_path / f"budget-{amount}", **options)[1:]

    record, lines = under(free)
    assert (record.steps, getattr(record, kind)) == (3, free)
    spent = [round(line["budget"] * free) for line in lines]
    assert len(spent) == 3
    assert spent == sorted(set(spent))
    record, lines = under(spent[1] + 1)
    assert (record.steps, getattr(record, kind)) == (3, free), "two steps fall short by one"
    assert lines[-1]["budget"] == pytest.approx(free / (spent[1] + 1))
    record, lines = under(spent[0])
    assert (record.steps, getattr(record, kind), len(lines)) == (1, spent[0], 1)


def test_a_budget_of_time(tmp_path, monkeypatch):
    clock = itertools.count()  # each look at the clock takes a second
    monkeypatch.setattr(costs_module.time, "perf_counter", lambda: float(next(clock)))
    _, record, lines = train(DPO(DPOConfig()), tmp_path, **OPTIONS, budget=20.0, budget_kind="time")
    assert record.seconds >= 20
    assert 1 < len(lines) == record.steps < 20
    assert lines[-3]["budget"] < 1  # logged by a later look than the one that stops


def test_the_last_line_is_logged_whenever_the_budget_ends(tmp_path):
    _, record, lines = train(DPO(DPOConfig()), tmp_path, **OPTIONS, budget=200.0, logging_steps=100)
    assert [line["step"] for line in lines] == [record.steps]
    assert record.final["step"] == record.steps


def test_learning_rate_decays_over_the_budget(tmp_path):
    _, plain, _ = train(DPO(DPOConfig()), tmp_path / "plain", **OPTIONS, max_steps=10)
    options = {**OPTIONS, "budget": float(plain.flops), "budget_kind": "flops"}
    _, record, lines = train(DPO(DPOConfig()), tmp_path / "cosine", **options)
    assert record.steps == 10
    rates = [line["learning_rate"] for line in lines]
    # The rate of a step is set after the step before, from what was spent by then.
    shares = [0.0, *(line["budget"] for line in lines[:-1])]
    assert rates == pytest.approx([1e-2 * (1 + np.cos(np.pi * share)) / 2 for share in shares], rel=1e-4)
    assert rates[0] == 1e-2
    assert rates[-1] < 0.1 * rates[0]


def test_warm_up_counts_steps_and_constant_rates_stay_so(tmp_path):
    fixed = {"budget": 600.0, "per_device_train_batch_size": 4}
    _, _, lines = train(DPO(DPOConfig()), tmp_path / "warm", **fixed, lr_scheduler_type="linear", warmup_steps=4)
    rates = [line["learning_rate"] for line in lines]
    assert rates[:4] == pytest.approx([0.0, 0.25e-2, 0.5e-2, 0.75e-2])
    shares = [line["budget"] for line in lines]
    assert rates[4:] == pytest.approx([1e-2 * (1 - share) for share in shares[3:-1]], rel=1e-4)
    assert len(rates) > 6
    for schedule in ("constant", "constant_with_warmup"):
        _, _, lines = train(DPO(DPOConfig()), tmp_path / schedule, **fixed, lr_scheduler_type=schedule)
        assert {line["learning_rate"] for line in lines} == {1e-2}


@pytest.mark.parametrize("schedule", ["linear", "constant_with_warmup"])
def test_a_share_of_warm_up_is_that_share_of_the_budget(schedule, tmp_path):
    fixed = {"budget": 600.0, "per_device_train_batch_size": 4, "warmup_steps": 0.5}
    _, _, lines = train(DPO(DPOConfig()), tmp_path, **fixed, lr_scheduler_type=schedule)
    shares = [0.0, *(line["budget"] for line in lines[:-1])]
    after = {"linear": lambda share: 2 * (1 - share), "constant_with_warmup": lambda share: 1}[schedule]
    expected = [1e-2 * (2 * share if share < 0.5 else after(share)) for share in shares]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["tokens", "flops"])
@pytest.mark.parametrize(("name", "killed_at"), [("dpo", 3), ("dpo", 5), ("ppo", 4)])
def test_interrupted_training_spends_and_ends_the_same(name, killed_at, kind, tmp_path):
    make, _ = RUNS[name]
    six = train(make(), tmp_path / "six", **OPTIONS, max_steps=6)[1]
    options = {**OPTIONS, "budget": float(getattr(six, kind)), "budget_kind": kind, "save_steps": 2}
    whole, record, lines = train(make(), tmp_path / "whole", **options)
    assert record.steps == 6

    with pytest.raises(KilledError):
        train(make(), tmp_path / "broken", wrap=dying_after(killed_at), **options)
    assert list((tmp_path / "broken").glob("checkpoint-*"))
    again, resumed, other = train(make(), tmp_path / "broken", **options)
    assert costs(resumed) == costs(record)
    assert [(line["loss"], line["learning_rate"], line["budget"]) for line in other] == [
        (line["loss"], line["learning_rate"], line["budget"]) for line in lines
    ]
    for mine, theirs in zip(whole.parameters_of("policy"), again.parameters_of("policy"), strict=True):
        assert torch.equal(mine, theirs)


def costs(record):
    names = ("steps", "tokens", "sampled_tokens", "trained_tokens", "prompts", "responses", "pairs", "flops")
    return {name: getattr(record, name) for name in names}


def test_no_checkpoint_is_left_at_the_step_that_spends_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "remove_checkpoints", lambda folder: None)  # a kill just before the end
    options = {**OPTIONS, "budget": 120.0, "save_steps": 1}
    _, record, _ = train(DPO(DPOConfig()), tmp_path, **options)
    kept = sorted(int(path.name.rpartition("-")[2]) for path in tmp_path.glob("checkpoint-*"))
    assert kept == list(range(1, record.steps))
    assert costs(train(DPO(DPOConfig()), tmp_path, **options)[1]) == costs(record)


def test_a_budget_that_nothing_is_spent_of_is_a_users_error():
    stop = StopAtBudget(lambda: 0.5)
    control = type("Control", (), {"should_training_stop": False})()
    for _ in range(1000):
        stop.on_step_end(None, None, control)
    with pytest.raises(UserError, match="1000 steps spent nothing"):
        stop.on_step_end(None, None, control)
    assert not control.should_training_stop


# ---- choosing one ------------------------------------------------------------------------------------


def test_a_budget_is_what_another_run_spent():
    record = {"tokens": 70, "flops": None, "seconds": 2.5, "sampled_tokens": 0}
    assert spent_by(record, "tokens", "dpo") == Budget("tokens", 70.0)
    assert spent_by(record, "time", "dpo") == Budget("time", 2.5)
    with pytest.raises(UserError, match=r"dpo, whose flops are not known"):
        spent_by(record, "flops", "dpo")
    with pytest.raises(UserError, match=r"best-of-n, whose tokens are zero"):
        spent_by({"tokens": 0}, "tokens", "best-of-n")


def test_a_budget_is_part_of_what_decides_a_method():
    method = make_method("dpo", {"max_steps": 7, "beta": 0.3})
    under = under_budget(method, Budget("flops", 5e9))
    assert Budget.of(under.train) == Budget("flops", 5e9)
    assert Budget.of(method.train) is None
    assert (under.name, under.config, under.train.max_steps) == ("dpo", method.config, 7)
    keys = [m.identity() for m in (method, under, under_budget(method, Budget("flops", 6e9)))]
    assert keys[0] != keys[1] != keys[2]
    assert under_budget(method, Budget("tokens", 5e9)).identity() != keys[1]


# ---- through an experiment, TRL included -------------------------------------------------------------


TRAIN = {"per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3}


@pytest.fixture
def experiment(tiny_model_path, tmp_path):
    draw = random.Random(0)

    def words(low, high):
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(low, high)))

    rows = [{"prompt": words(2, 6), "chosen": " " + words(1, 6), "rejected": " " + words(1, 6)} for _ in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = WorldConfig(model=str(tiny_model_path), dataset=str(path), max_prompt_tokens=16, max_response_tokens=8)
    return Experiment(Run(tmp_path / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), tmp_path)


def test_methods_matched_in_flops(experiment):
    first = experiment.train("dpo", make_method("dpo", {**TRAIN, "max_steps": 12}))
    budget = spent_by(first.record, "flops", "dpo")
    sft = make_method("sft", {**TRAIN, "max_steps": 1})
    matched = experiment.train("sft", under_budget(sft, budget), groups=experiment.pairs)
    step = matched.record["flops"] / matched.record["steps"]
    assert budget.amount <= matched.record["flops"] < budget.amount + 1.5 * step
    assert matched.record["steps"] > 12, "a step without a reference costs less"


def test_trl_is_matched_in_given_tokens(experiment):
    method = {**TRAIN, "max_steps": 3}
    native = experiment.train("dpo", make_method("dpo", method))
    budget = spent_by(native.record, "tokens", "dpo")
    theirs = experiment.train("trl", under_budget(make_method("trl-dpo", {**TRAIN, "max_steps": 1}), budget))
    names = ("steps", "tokens", "trained_tokens", "prompts", "responses", "pairs", "sampled_tokens")
    assert {n: theirs.record[n] for n in names} == {n: native.record[n] for n in names}
    assert theirs.record["flops"] is None
    for name, kind in (("trl-dpo", "time"), ("trl-dpo", "flops"), ("trl-grpo", "tokens")):
        with pytest.raises(UserError, match=f"no budget of {kind}"):
            under_budget(make_method(name, method), Budget(kind, 1.0))
    with pytest.raises(UserError, match="no budget of time"):
        experiment.train("trl", make_method("trl-dpo", {**method, "budget": 1.0, "budget_kind": "time"}))
