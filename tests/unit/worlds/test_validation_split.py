"""Training rows set aside: by group, out of the training rows alone, and the others' places kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from preflab.data.encoding import Encoder
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.experiment.opening import with_rows_aside
from preflab.experiment.splits import EncodedSplits
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.worlds import World
from preflab.worlds.validation import LEARNT_FROM, with_validation

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def config(grouped):
    """160 prompts in 30 groups."""
    return grouped(lambda n, draw: n % 30)


def groups(split):
    return set(split["group"])


def test_whole_groups_leave_the_training_rows_and_no_others(whole):
    world = with_validation(whole, 0.3, 0)
    aside = world.validation
    assert groups(world.pairs) | groups(aside.pairs) == groups(whole.pairs)
    for name in ("pairs", "demonstrations", "prompts"):
        assert not groups(getattr(world, name)) & groups(getattr(aside, name)), name
        assert len(getattr(world, name)) + len(getattr(aside, name)) == len(getattr(whole, name))
    assert groups(aside.pairs) == groups(aside.prompts) == groups(aside.demonstrations)
    for name in ("heldout", "gold_pairs", "eval_prompts"):
        assert getattr(world, name) is getattr(whole, name)
    assert 0.1 < len(groups(aside.pairs)) / len(groups(whole.pairs)) < 0.5
    assert world.facts["validation"]["set aside of the training rows"]["pairs"] == len(aside.pairs)


def test_another_seed_sets_other_groups_aside(whole):
    one, same, other = (with_validation(whole, 0.3, seed).validation for seed in (0, 0, 1))
    assert groups(one.pairs) == groups(same.pairs) != groups(other.pairs)


def test_what_was_encoded_before_is_what_would_be_encoded_now(whole, tiny_tokenizer):
    world = with_validation(whole, 0.3, 0)
    encoder = Encoder(tiny_tokenizer, 16, 8)
    for part in (world, world.validation):
        kept, fresh = EncodedSplits(part, encoder), EncodedSplits(replace(part, encoded={}), encoder)
        for name in ("pairs", "demonstrations", "prompt_groups", "heldout"):
            assert getattr(kept, name) == getattr(fresh, name), name


@pytest.mark.parametrize(("fraction", "message"), [(1e-6, "and 0 to validate with"), (0.9999999, "leaves 0")])
def test_a_side_without_rows_is_refused(whole, fraction, message):
    with pytest.raises(UserError, match=message):
        with_validation(whole, fraction, 0)


def test_a_world_whose_splits_share_their_prompts_is_refused(whole):
    with pytest.raises(UserError, match="shares its few prompts"):
        with_validation(replace(whole, cut=True), 0.1, 0)


def test_rows_are_set_aside_where_somebody_looks_at_them(config, caplog):
    looking, blind = make_method("dpo", {"eval_steps": 2}), make_method("dpo")
    assert with_rows_aside(config, [blind, looking]).validation_fraction == 0.1
    assert with_rows_aside(config, [blind]) is config
    chosen = replace(config, validation_fraction=0.4)
    assert with_rows_aside(chosen, [looking]) is chosen
    assert not caplog.records
    with_rows_aside(chosen, [blind])
    assert "neither --tune nor eval_steps looks at them" in caplog.text
    with pytest.raises(UserError, match="validation_fraction is 0"):
        with_rows_aside(replace(config, validation_fraction=0.0), [looking])


def test_a_stage_is_looked_at_on_rows_it_never_learns_from(config, tmp_path):
    experiment = Experiment(
        Run(tmp_path / "run"), replace(config, validation_fraction=0.3), LoraSettings(lora_rank=4), tmp_path
    )
    reward = experiment.train("reward", make_method("reward", {**TRAIN, "eval_steps": 1}))
    dpo = experiment.train("dpo", make_method("dpo", {**TRAIN, "eval_steps": 1, "eval_rows": 5, "early_stopping": 1}))
    rloo = make_method("rloo", {**TRAIN, "eval_steps": 2, "rollout_prompts": 4, "rollout_epochs": 1})
    sampled = experiment.train("rloo", rloo, reward=reward)
    for stage, name in ((reward, "accuracy"), (dpo, "loss"), (sampled, "reward")):
        lines = [json.loads(line) for line in (stage.folder / "validation.jsonl").read_text().splitlines()]
        assert all(f"eval_{name}" in line for line in lines), lines
        assert stage.record["validation"]["evaluations"] == len(lines)
    plain = experiment.train("reward", make_method("reward", TRAIN))
    assert (plain.key != reward.key, plain.record["validation"]) == (True, None)
    weights = [(stage.folder / "reward" / "adapter_model.safetensors").read_bytes() for stage in (plain, reward)]
    assert weights[0] == weights[1]


def test_without_rows_set_aside_nothing_can_be_looked_at(config, tmp_path):
    experiment = Experiment(Run(tmp_path / "run"), config, LoraSettings(lora_rank=4), tmp_path)
    with pytest.raises(UserError, match="set validation_fraction"):
        experiment.train("dpo", make_method("dpo", {**TRAIN, "eval_steps": 1}))


def test_splits_that_are_learnt_from_are_splits():
    assert set(LEARNT_FROM) <= set(World.__dataclass_fields__)
