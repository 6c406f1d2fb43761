"""Evaluation while a method learns: what is measured, that it changes nothing, and the stop at the best."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from tiny import KilledError, dying_after, make_groups, settings

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.algorithms.kto import KTO, KTOConfig
from preflab.algorithms.ppo import PPO, PPOConfig
from preflab.algorithms.reward import Reward, RewardConfig
from preflab.errors import UserError
from preflab.eval.conformance.workbench import END, PAD, make_roles
from preflab.method.configured import make_method
from preflab.sampling.sampler import TransformersSampler
from preflab.training.fitting import Fitting
from preflab.training.offline import OfflineSource
from preflab.training.rollouts import RolloutSource
from preflab.training.trainer import run_training
from preflab.training.validation import BEST, held_losses, held_rollout

MAKE = {
    "dpo": lambda: DPO(DPOConfig(beta=0.3)),
    "kto": lambda: KTO(KTOConfig()),
    "ppo": lambda: PPO(PPOConfig(rollout_prompts=4, samples_per_prompt=2, rollout_epochs=2)),
}
OPTIONS = {"per_device_train_batch_size": 4, "max_steps": 8, "save_steps": 2}
LOOKING = {**OPTIONS, "eval_steps": 3}


def groups_of(algorithm, count, seed):
    groups = make_groups(count, seed)
    if algorithm.needs.responses != "single":
        return groups
    return [g._replace(response_ids=g.response_ids[:1], feedback={"desirable": g.row % 2}) for g in groups]


def train(algorithm, folder, *, wrap=lambda source: source, judged_by=("loss", False), scripted=None, **changes):
    """Train, looking at other rows with `eval_steps`; return roles, record and both files' lines."""
    roles, chosen, needs = make_roles(), settings(**changes), algorithm.needs
    if needs.responses == "sampled":
        sampler, held = TransformersSampler(END, PAD, 6), [g.prompt_ids for g in make_groups(8, 9)]
        prompts = [group.prompt_ids for group in make_groups()]
        source = RolloutSource(algorithm, needs, roles, sampler, prompts, chosen, seed=5)
        measure = partial(held_rollout, needs, 1.0, roles, sampler, held, Fitting(chosen), 3)
    else:
        made = partial(OfflineSource, train=chosen, pad_id=PAD, seed=5, algorithm=algorithm, roles=roles)
        source = made(groups_of(algorithm, 16, 0))
        measure = partial(held_losses, algorithm, roles, made(groups_of(algorithm, 9, 9)))
    if scripted is not None:
        values = iter(scripted)
        measure = lambda: {judged_by[0]: next(values)}  # noqa: E731
    folder.mkdir(exist_ok=True)
    looked = {"measure": measure, "judged_by": judged_by} if chosen.eval_steps else {}
    record = run_training(roles, algorithm, wrap(source), chosen, folder, seed=3, title="test", **looked)
    lines = [
        [json.loads(line) for line in (folder / name).read_text().splitlines()] if (folder / name).exists() else []
        for name in ("metrics.jsonl", "validation.jsonl")
    ]
    return roles, record, *lines


def weights(roles, role="policy"):
    return {name: value.detach().clone() for name, value in roles.state(role).items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- what is measured, and what it leaves alone -------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_looking_changes_no_step_and_no_cost(name, tmp_path):
    bare, plain, lines, none = train(MAKE[name](), tmp_path / "bare", **OPTIONS)
    roles, record, watched, found = train(MAKE[name](), tmp_path / "watched", **LOOKING)
    assert same(weights(bare), weights(roles))
    assert [line["loss"] for line in watched] == [line["loss"] for line in lines]
    costs = ("steps", "tokens", "sampled_tokens", "prompts", "flops")
    assert [getattr(record, cost) for cost in costs] == [getattr(plain, cost) for cost in costs]
    assert [line["step"] for line in found] == [3, 6, 8], "every three steps, and at the end"
    assert (none, plain.validation, record.validation["evaluations"]) == ([], None, 3)
    assert not (tmp_path / "watched" / BEST).exists()


def test_offline_figures_are_the_loss_of_each_row_once(tmp_path):
    algorithm = MAKE["dpo"]()
    roles, _, _, found = train(algorithm, tmp_path, **LOOKING)
    source = OfflineSource(make_groups(9, 9), settings(per_device_train_batch_size=9), PAD, 0)
    [batch] = source.once()
    with torch.no_grad():
        loss = algorithm.loss(batch, roles(batch, algorithm.needs.scores))
    assert found[-1]["eval_loss"] == pytest.approx(loss.values.mean().item(), rel=1e-5)
    accuracy = loss.metrics["accuracy"]
    assert found[-1]["eval_accuracy"] == pytest.approx((accuracy.total / accuracy.items).item())
    assert found[0]["eval_loss"] != found[-1]["eval_loss"]


def test_rollout_figures_are_of_the_policy_as_it_is_from_the_same_noise(tmp_path):
    roles, _, _, found = train(MAKE["ppo"](), tmp_path, **LOOKING)
    prompts, sampler = [g.prompt_ids for g in make_groups(8, 9)], TransformersSampler(END, PAD, 6)
    again = held_rollout(
        MAKE["ppo"]().needs, 1.0, roles, sampler, prompts, Fitting(settings(per_device_train_batch_size=8)), 3
    )
    assert {"eval_reward", "eval_kl", "eval_response_length"} <= set(found[-1])
    for name in ("reward", "kl", "response_length"):
        assert found[-1][f"eval_{name}"] == pytest.approx(again[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_every_row_comes_once_and_none_alone_where_others_are(count):
    groups = make_groups(count, 1)
    seen = []
    for batch in OfflineSource(groups, settings(per_device_train_batch_size=4), PAD, 0).once():
        seen += [row[mask].tolist() for row, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    assert seen == [group.prompt_ids for group in groups]


# ---- the stop, and the best ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "values", "stops", "best"),
    [
        (("loss", False), [0.5, 0.4, 0.6, 0.45, 9, 9], 4, 2),
        (("reward", True), [0.5, 0.6, 0.1, 0.6, 9, 9], 4, 2),  # as good is not better
        (("loss", False), [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 8, 8),
    ],
)
def test_training_ends_with_the_best_weights(metric, values, stops, best, tmp_path):
    looking = {"eval_steps": 1, "early_stopping": 2, "save_steps": 0}
    roles, record, _, found = train(
        MAKE["dpo"](), tmp_path / "stopped", judged_by=metric, scripted=values, **{**OPTIONS, **looking}
    )
    assert (record.steps, len(found), record.validation["best_step"]) == (stops, stops, best)
    to_best, _, _, _ = train(MAKE["dpo"](), tmp_path / "best", **{**OPTIONS, "save_steps": 0, "max_steps": best})
    assert same(weights(roles), weights(to_best))
    assert not (tmp_path / "stopped" / BEST).exists()


@pytest.mark.parametrize(("name", "killed_at"), [("dpo", 5), ("dpo", 7), ("ppo", 5)])
def test_an_interrupted_run_ends_with_the_same_figures(name, killed_at, tmp_path):
    options = {**OPTIONS, "eval_steps": 1, "early_stopping": 7, "judged_by": ("loss" if name == "dpo" else "kl", True)}
    whole, record, _, found = train(MAKE[name](), tmp_path / "whole", **options)
    with pytest.raises(KilledError):
        train(MAKE[name](), tmp_path / "broken", wrap=dying_after(killed_at), **options)
    again, resumed, _, others = train(MAKE[name](), tmp_path / "broken", **options)
    assert found == others
    assert record.validation["best_step"] == resumed.validation["best_step"]
    assert same(weights(whole), weights(again))


def test_a_reward_model_is_looked_at_and_put_back_with_its_head(tmp_path):
    algorithm = Reward(RewardConfig())
    looking = {"eval_steps": 1, "early_stopping": 1, "save_steps": 0}
    roles, record, _, _ = train(algorithm, tmp_path / "a", scripted=[0.1, 0.2], **{**OPTIONS, **looking})
    first, _, _, _ = train(Reward(RewardConfig()), tmp_path / "b", **{**OPTIONS, "max_steps": 1, "save_steps": 0})
    assert record.steps == 2
    assert same(weights(roles, "reward"), weights(first, "reward"))


def test_the_end_of_a_budget_is_looked_at_too(tmp_path):
    looking = {"eval_steps": 1000, "early_stopping": 1, "save_steps": 0, "budget": 600.0}
    _, record, _, found = train(MAKE["dpo"](), tmp_path, **{**OPTIONS, **looking})
    assert [line["step"] for line in found] == [record.steps]
    assert record.validation["best_step"] == record.steps


def test_a_metric_that_the_evaluation_does_not_give_is_said(tmp_path):
    with pytest.raises(UserError, match="gives no reward"):
        train(MAKE["dpo"](), tmp_path, judged_by=("reward", True), **LOOKING, early_stopping=1)


# ---- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("dpo", {"early_stopping": 2}, "set eval_steps too"),
        ("dpo", {"eval_rows": 2}, "set eval_steps too"),
        ("dpo", {"eval_steps": 2, "early_stopping_metric": "accuracy"}, "what early_stopping goes by"),
        ("dpo", {"eval_steps": 2, "early_stopping": 1, "early_stopping_metric": "reward"}, "take loss or accuracy"),
        ("ppo", {"eval_steps": 2, "early_stopping": 1, "early_stopping_metric": "loss"}, "take reward"),
        ("sft", {"eval_steps": 2, "early_stopping": 1, "early_stopping_metric": "accuracy"}, "take loss"),
        ("trl-dpo", {"eval_steps": 2}, "methods that the loop trains"),
    ],
)
def test_what_could_not_be_looked_at_is_refused(name, values, message):
    with pytest.raises(UserError, match=message):
        make_method(name, values)


def test_keys_change_with_the_setting_alone():
    plain = make_method("dpo").identity()["train"]
    assert not {"eval_steps", "eval_rows", "early_stopping", "early_stopping_metric"} & set(plain)
    assert make_method("dpo", {"eval_steps": 5}).identity()["train"] == {**plain, "eval_steps": 5}


@pytest.mark.parametrize(("name", "metric"), [("dpo", ("loss", False)), ("ppo", ("reward", True))])
def test_what_is_better_by_default(name, metric):
    assert make_method(name, {"eval_steps": 1, "early_stopping": 1}).judged_by == metric
