"""What other trainers call an option is taken where it means the same, else answered by one that there is."""

from __future__ import annotations

import re

import pytest

from docs.make_command_page import PAGE, page
from preflab.errors import UserError
from preflab.eval.pipeline.session import Session
from preflab.experiment.sections import MethodSections
from preflab.method import registry
from preflab.recipes import compare, train
from preflab.recipes.completion import classes_of
from preflab.settings.command_line import hints_of
from preflab.settings.habits import HABITS

GIVEN = {
    "model_name_or_path": ("owner/model", "owner/model"),
    "torch_dtype": ("float16", "float16"),
    "attn_implementation": ("eager", "eager"),
    "load_in_4bit": ("true", "4bit"),
    "load_in_8bit": ("true", "8bit"),
    "lora_r": ("3", 3),
    "lora_target_modules": ("q_proj v_proj", ("q_proj", "v_proj")),
    "dataset_name": ("owner/data", "owner/data"),
    "dataset_train_split": ("other", "other"),
    "reward_model_path": ("A B", ("A", "B")),
    "reward_model_name_or_path": ("A", ("A",)),
    "num_ppo_epochs": ("3", 3),
    "num_iterations": ("3", 3),
    "num_generations": ("7", 7),
    "cliprange": ("0.3", 0.3),
    "epsilon": ("0.3", 0.3),
    "epsilon_high": ("0.4", 0.4),
    "cliprange_value": ("0.3", 0.3),
    "vf_coef": ("0.5", 0.5),
    "lam": ("0.5", 0.5),
    "missing_eos_penalty": ("1.5", 1.5),
    "use_vllm": ("false", "transformers"),
    "per_device_eval_batch_size": ("5", 5),
    "output_dir": ("elsewhere", "elsewhere"),
    "algorithm": ("kto", ("kto",)),
    "method": ("KTO", ("kto",)),
    "methods": ("kto ipo", ("kto", "ipo")),
    "lr": ("0.5", 0.5),
    "epochs": ("2", 2.0),
}
"""Of each that is taken: what is given, and what that is here."""

ALIKE = (
    "learning_rate per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps lora_alpha "
    "lora_dropout use_dora use_rslora bf16 gradient_checkpointing report_to eval_steps save_steps logging_steps "
    "warmup_steps weight_decay max_grad_norm lr_scheduler_type optim adam_beta1 temperature trust_remote_code dtype "
    "beta label_smoothing gamma whiten_rewards"
)
"""What bears the same name."""

DATA = ["--model_name_or_path", "owner/model", "--dataset_name", "owner/data"]


def ppo(*argv):
    return Session.read("test", train.CONFIGS, flat="ppo", argv=[*DATA, *argv])


def found(session, field):
    """Return what a session has of a field, of its own or of its method."""
    method = session.method("ppo")
    for config in (*session.configs.values(), method.config, method.train):
        if field in vars(config):
            return vars(config)[field]
    raise AssertionError(field)


@pytest.mark.parametrize("name", [name for name, habit in HABITS.items() if habit.field])
@pytest.mark.parametrize("dashed", [False, True])
def test_what_means_the_same_is_taken(name, dashed, monkeypatch):
    monkeypatch.setattr("preflab.settings.training.find_spec", lambda library: True)
    given, ours = GIVEN[name]
    written = f"--{name.replace('_', '-') if dashed else name}"
    if HABITS[name].field == "algorithms":
        session = Session.read("test", compare.CONFIGS, argv=[written, *given.split()])
        assert session.config(compare.CompareConfig).algorithms == ours
        return
    extra = ["--clip-range", "0.3"] if name == "epsilon_high" else []
    session = ppo(written, *given.split(), *extra)
    assert found(session, HABITS[name].field) == ours


@pytest.mark.parametrize("name", [name for name, habit in HABITS.items() if habit.answer])
def test_what_does_not_is_answered_by_options_that_there_are(name):
    habit = HABITS[name]
    with pytest.raises(UserError) as refused:
        ppo(f"--{name}", *(["auto"] if habit.field else []))
    said = str(refused.value)
    assert said.startswith(f"--{name}")
    assert "\n" not in said
    fields = set(hints_of(classes_of("compare"))) | set(hints_of(classes_of("train", "ppo")))
    named = {option.replace("-", "_") for option in re.findall(r"--(?:METHOD\.)?([a-z][a-z0-9-]+)", habit.answer)}
    assert named <= fields
    assert named or "leave it out" in said or "nothing is sent" in said


def test_the_tables_name_each_habit_once_and_none_that_is_ours():
    assert GIVEN.keys() == {name for name, habit in HABITS.items() if habit.field}
    assert all(habit.field or habit.answer for habit in HABITS.values())
    fields = set(hints_of(classes_of("compare"))) | set(hints_of(classes_of("train", "ppo")))
    assert fields & HABITS.keys() == set()
    assert {habit.field for habit in HABITS.values()} - {""} <= fields


@pytest.mark.parametrize("name", ALIKE.split())
def test_the_same_names_are_the_same_fields(name):
    fields = {*hints_of(classes_of("train", "ppo")), *hints_of(classes_of("train", "dpo"))}
    assert name in fields
    assert name not in HABITS


@pytest.mark.parametrize(
    ("argv", "quantised"),
    [(["--load_in_4bit"], "4bit"), (["--load_in_4bit", "False"], "none"), (["--load_in_8bit", "true"], "8bit")],
)
def test_values_are_ours(argv, quantised, monkeypatch):
    monkeypatch.setattr("preflab.settings.training.find_spec", lambda library: True)
    assert ppo(*argv).lora.load_in == quantised


def test_a_section_takes_them_too():
    session = Session.read("test", compare.CONFIGS, argv=["--PPO.num_ppo_epochs", "3", "--DPO.learning_rate", "0.5"])
    assert session.method("ppo").config.rollout_epochs == 3
    assert session.method("dpo").train.learning_rate == 0.5
    with pytest.raises(UserError, match=r"unknown option '--num_ppo_epochs'.* write --ppo\.rollout-epochs"):
        Session.read("test", compare.CONFIGS, argv=["--num_ppo_epochs", "3"])


@pytest.mark.parametrize("spelt", ["DPO", "dpo", "Dpo"])
def test_methods_are_known_in_any_case(spelt):
    session = Session.read("test", compare.CONFIGS, argv=["--algorithms", spelt, "--sft_method", "SFT"])
    assert session.config(compare.CompareConfig).algorithms == ("dpo",)
    assert session.run.sft_method == "sft"


@pytest.mark.parametrize("name", registry.registered())
def test_every_method_is_known_by_its_own_spellings_alone(name):
    for spelt in (name, name.upper(), name.replace("-", "_"), name.replace("-", ""), name.title()):
        assert registry.named(spelt) == name
        assert MethodSections().named(spelt) == name
    assert registry.named(f"{name}.py:Class") == f"{name}.py:Class"
    assert registry.named(f"{name}x") == f"{name}x"


def test_sections_in_two_spellings_are_one():
    session = Session(None, {"DPO": {"beta": 0.3}, "dpo": {"learning_rate": 0.5}}, compare.CONFIGS)
    method = session.method("dpo")
    assert (method.config.beta, method.train.learning_rate) == (0.3, 0.5)


def test_the_page_is_made_of_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python docs/make_command_page.py"
