"""What an interruption must not change, and checkpoints that are not whole."""

from __future__ import annotations

import os
import shutil

import pytest
from tiny import KilledError, dying_after, settings, train
from trained_methods import METHODS, assert_same_weights, dpo, ppo

from preflab.training import trainer as trainer_module
from preflab.training.rollouts import ROLLOUT_METRICS


@pytest.mark.parametrize(("name", "killed_at"), [("dpo", 1), ("dpo", 5), ("ppo", 3), ("ppo", 4)])
def test_interrupted_training_ends_with_the_same_weights_and_metrics(name, killed_at, tmp_path):
    make, trained = METHODS[name]
    fields = {"prompts": 4, "epochs": 2} if name == "ppo" else {}  # two steps a rollout
    options = {"per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2, "lr_scheduler_type": "cosine"}
    whole, record, lines = train(make(**fields), tmp_path / "whole", **options)

    with pytest.raises(KilledError):
        train(make(**fields), tmp_path / "broken", wrap=dying_after(killed_at), **options)
    again, resumed, other = train(make(**fields), tmp_path / "broken", **options)
    assert_same_weights(whole, again, *trained)
    assert (resumed.steps, resumed.tokens, resumed.sampled_tokens) == (
        record.steps,
        record.tokens,
        record.sampled_tokens,
    )
    assert not list((tmp_path / "broken").glob("checkpoint-*")), "a finished run keeps no checkpoint"
    names = ("step", "loss", "learning_rate", *make(**fields).metrics, *(ROLLOUT_METRICS if name == "ppo" else ()))
    kept = [{n: line[n] for n in names if n in line} for line in lines]
    assert [{n: line[n] for n in names if n in line} for line in other] == kept


def train_and_die_before_the_end(folder, options):
    """Train to the last step and leave every checkpoint, as a kill just then would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "remove_checkpoints", lambda folder: None)
        return train(dpo(), folder, **options)


def test_resuming_at_the_very_end_takes_no_step_too_many(tmp_path):
    options = {"per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 2}
    whole, _, lines = train_and_die_before_the_end(tmp_path, options)
    again, record, other = train(dpo(), tmp_path, **options)
    assert_same_weights(whole, again, "policy")
    assert [line["step"] for line in other] == [line["step"] for line in lines] == [1, 2, 3, 4]
    assert record.final["step"] == 4


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "the state not yet written": lambda c: (c / "trainer_state.json").unlink(),
    "the state empty": lambda c: os.truncate(c / "trainer_state.json", 0),
    "the state half": lambda c: os.truncate(c / "trainer_state.json", 40),
    "weights flipped": lambda c: flip(c / "policy" / "adapter_model.safetensors"),
    "optimiser flipped": lambda c: flip(c / "optimizer.pt"),
    "schedule cut": lambda c: os.truncate(c / "scheduler.pt", 9),
    "generators gone": lambda c: (c / "rng_state.pth").unlink(),
    "costs flipped": lambda c: flip(c / "carried.json"),
    "another's optimiser": lambda c: shutil.copy(c.parent / "checkpoint-1" / "optimizer.pt", c),
    "a file too many": lambda c: (c / "scaler.pt").write_bytes(b"pickled"),
    "not sealed yet": lambda c: (c / "SHA256SUMS").unlink(),
    "a file": lambda c: (shutil.rmtree(c), c.write_text("")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path, caplog, name):
    options = {"per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 1}
    whole, _, _ = train_and_die_before_the_end(tmp_path, options)
    shutil.rmtree(tmp_path / "checkpoint-4")
    DAMAGES[name](tmp_path / "checkpoint-3")
    caplog.clear()
    again, _, lines = train(dpo(), tmp_path, **options)
    assert_same_weights(whole, again, "policy")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    (said,) = (record.getMessage() for record in caplog.records)
    assert "checkpoint-3" in said
    assert "passed over" in said


def test_without_any_whole_checkpoint_training_starts_again(tmp_path, caplog):
    options = {"per_device_train_batch_size": 4, "max_steps": 3, "save_steps": 1}
    whole, _, _ = train_and_die_before_the_end(tmp_path, options)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        flip(checkpoint / "optimizer.pt")
    again, record, _ = train(dpo(), tmp_path, **options)
    assert_same_weights(whole, again, "policy")
    assert record.steps == 3
    assert len(caplog.records) == 2, "the one of the last step is of no use anyway"


def test_save_steps_inside_a_rollout_are_refused():
    with pytest.raises(ValueError, match="multiple of the 4 steps"):
        ppo(prompts=8, epochs=2).config.check(settings(per_device_train_batch_size=4, save_steps=3))
