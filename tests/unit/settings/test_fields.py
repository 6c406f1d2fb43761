"""Configs: types, bounds, near misses, YAML under the command line, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Literal

import pytest
from plain_configs import Other, Plain

from preflab.errors import UserError, near_misses
from preflab.errors.answering import run_recipe
from preflab.settings.fields import as_dict, build, merge
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig
from preflab.settings.values import parse_text

# ---- building ----------------------------------------------------------------------------------------


def test_values_become_the_annotated_types():
    made = build(
        Plain,
        {"rate": 1, "count": 5, "quick": True, "kind": "b", "limit": 4, "names": ["u", "v"], "folder": "out"},
        "here",
    )
    assert made == Plain(1.0, 5, "x", True, "b", 4, ("u", "v"), Path("out"))
    assert isinstance(made.rate, float)
    assert build(Plain, {"limit": None}, "here").limit is None
    assert build(Plain, {"rate": "1e-4"}, "here").rate == 1e-4, "YAML 1.1 reads 1e-4 as text"
    assert build(Plain, {"extra": {"k": 2}}, "here").extra == {"k": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "high"}, "here: rate is 'high' .*float"),
        ({"rate": True}, "here: rate is True"),
        ({"rate": 1.5}, "here: rate is 1.5; it must be at least 0.0 and at most 1.0"),
        ({"rate": -0.1}, "at least 0.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": None}, "rate is None"),
        ({"count": 0}, "count is 0; it must be at least 1$"),
        ({"count": 2.5}, "count is 2.5 .*int"),
        ({"count": True}, "count is True .*int"),
        ({"count": "3"}, "count is '3' .*int"),
        ({"name": 3}, "name is 3 .*str"),
        ({"quick": "yes"}, "quick is 'yes' .*bool"),
        ({"kind": "c"}, "kind is 'c'; choose one of a, b"),
        ({"names": "u"}, "names is 'u' .*tuple"),
        ({"names": [1]}, "names is 1 .*str"),
        ({"extra": [1]}, "extra is"),
        ({"limit": 1.5}, "limit is 1.5 .*int"),
        ({"count": 13}, "here: count 13 brings bad luck; take 12"),
        ({"conut": 3}, "here: unknown field 'conut' .*did you mean 'count'"),
        ({"zzz": 3}, "unknown field 'zzz'; known: rate, count"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(UserError, match=message):
        build(Plain, values, "here")


def test_configs_are_frozen_and_defaults_are_not_shared():
    with pytest.raises(FrozenInstanceError):
        Plain().rate = 1.0
    assert Plain().extra is not Plain().extra


def test_as_dict_is_plain():
    assert as_dict(Plain(names=("u",), folder=Path("a/b"))) == {
        "rate": 0.5,
        "count": 3,
        "name": "x",
        "quick": False,
        "kind": "a",
        "limit": None,
        "names": ["u"],
        "folder": "a/b",
        "extra": {},
    }
    assert build(Plain, as_dict(Plain(names=("u",))), "here") == Plain(names=("u",))


def test_merge_shares_values_out():
    made = merge({"plain": Plain, "other": Other}, {"rate": 0.25, "steps": 4, "count": 2}, "here")
    assert made == {"plain": Plain(rate=0.25, count=2), "other": Other(rate=0.25, steps=4)}
    with pytest.raises(UserError, match=r"unknown field 'step' .*'steps'"):
        merge({"plain": Plain, "other": Other}, {"step": 4}, "here")


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        ("word", str, "word"),
        ("Yes", bool, True),
        ("off", bool, False),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("a, b,", tuple[str, ...], ("a", "b")),
        ("1,2", tuple[int, ...], (1, 2)),
        ("2", Literal[1, 2], 2),
    ],
)
def test_text_is_read_as_its_type(text, hint, value):
    assert parse_text(text, hint, "--here") == value


@pytest.mark.parametrize(
    ("text", "hint"), [("x", int), ("1.5", int), ("x", float), ("maybe", bool), ("1,x", tuple[int, ...])]
)
def test_unreadable_text_is_a_users_error(text, hint):
    with pytest.raises(UserError, match="--here is"):
        parse_text(text, hint, "--here")


# ---- our own settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [LoraSettings, TrainConfig, RolloutConfig])
def test_settings_explain_every_field_and_bear_their_own_defaults(cls):
    assert build(cls, as_dict(cls()), "here") == cls()
    assert all(field.metadata["help"] for field in cls.__dataclass_fields__.values())


def test_rollouts_are_whole_numbers_of_optimiser_batches():
    train = TrainConfig(per_device_train_batch_size=8, gradient_accumulation_steps=3)
    assert train.optimiser_batch == 24
    RolloutConfig(rollout_prompts=48).check(train)
    assert RolloutConfig(rollout_prompts=48, rollout_epochs=4).steps_per_rollout(train) == 8
    with pytest.raises(ValueError, match=r"rollout_prompts \(50\).*8 × 3 = 24\); set rollout_prompts to 48"):
        RolloutConfig(rollout_prompts=50).check(train)
    with pytest.raises(ValueError, match="set rollout_prompts to 24"):
        RolloutConfig(rollout_prompts=4).check(train)


def test_a_loop_without_steps_is_refused():
    for values in ({"max_steps": 0}, {"num_train_epochs": 0.0}):
        with pytest.raises(UserError, match="no step to train"):
            build(TrainConfig, values, "here")


# ---- errors ------------------------------------------------------------------------------------------


def test_near_misses():
    assert near_misses("cuont", ["count", "rate"]) == " (did you mean 'count'?)"
    assert near_misses("zzz", ["count", "rate"]) == ""


def test_a_recipe_answers_mistakes_in_one_line(capsys):
    def main():
        raise UserError("this is wrong")

    with pytest.raises(SystemExit) as stop:
        run_recipe(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: this is wrong\n"


def test_configs_and_methods_import_without_torch():
    algorithms = "preflab.algorithms.dpo, preflab.algorithms.ppo"
    modules = f"preflab.settings.fields, preflab.method.registry, {algorithms}, preflab.worlds"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
