"""Settings in layers, and sections for kinds of methods."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from preflab.errors import UserError
from preflab.eval.annotation.settings import AnnotateConfig
from preflab.eval.judges.settings import EndpointConfig
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.conforming import ConformanceConfig
from preflab.eval.pipeline.defaults import DEFAULTS
from preflab.eval.pipeline.entries import CompareConfig
from preflab.eval.pipeline.following import CourseConfig
from preflab.eval.pipeline.session import SHARED, Session
from preflab.eval.settings import EvalConfig
from preflab.experiment.settings import RewardSettings, RunConfig
from preflab.method import registry
from preflab.settings.fields import build
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.worlds import WorldConfig

POLICIES = ("dpo", "ipo", "kto", "plackett-luce", "ppo", "rloo", "grpo", "online-dpo", "expert-iteration")


def session(*argv):
    found = Session.read("test", COMPARE, argv=list(argv))
    return found.capped(found.config(CompareConfig).max_steps)


def test_the_command_line_beats_the_worlds_own_section_whichever_kind_it_names():
    found = session("--pair.beta", "0.3", "--sampled.max-steps", "7")
    assert {found.method(name).config.beta for name in ("dpo", "ipo", "trl-dpo")} == {0.3}
    sampled = ("ppo", "rloo", "grpo", "online-dpo", "expert-iteration", "a2c")
    assert {found.method(name).train.max_steps for name in sampled} == {7}
    assert found.method("plackett-luce").config.beta == 0.1, "of another kind"


def test_a_methods_own_section_beats_its_kinds_in_the_same_layer(tmp_path):
    (tmp_path / "mine.yaml").write_text("pair: {beta: 0.3, learning_rate: 5e-4}\ndpo: {beta: 0.2}\n")
    found = session("--config", str(tmp_path / "mine.yaml"))
    assert (found.method("dpo").config.beta, found.method("ipo").config.beta) == (0.2, 0.3)
    assert {found.method(name).train.learning_rate for name in ("dpo", "ipo")} == {5e-4}


def test_kinds_leave_reward_models_alone():
    plain, found = session(), session("--pair.learning-rate", "0.5", "--pair.label-smoothing", "0.3")
    assert found.method("dpo").config.label_smoothing == 0.3
    for name in ("reward", "trl-reward"):
        assert found.method(name).identity() == plain.method(name).identity()


def test_quick_is_quicker_for_every_method():
    full, quick = session(), session("--quick")
    for name in POLICIES:
        assert quick.method(name).train.learning_rate > full.method(name).train.learning_rate
        if full.method(name).train.max_steps > 0:
            assert quick.method(name).train.max_steps < full.method(name).train.max_steps


def test_max_steps_caps_and_never_raises():
    assert session("--max-steps", "5").method("ppo").train.max_steps == 5
    assert session("--max-steps", "5").method("dpo").train.max_steps == 5
    assert session("--max-steps", "100000").method("ppo").train.max_steps == session().method("ppo").train.max_steps


@pytest.mark.parametrize("flag", ["--pair.clip-range", "--single.gamma", "--sampled.rollout-prompt", "--pare.beta"])
def test_a_field_that_no_method_of_the_kind_has_is_refused(flag):
    with pytest.raises(UserError, match=r"unknown (field|section)"):
        session(flag, "1").layers.check(("dpo",))


def test_settings_of_methods_that_do_not_run_are_named():
    found = session("--dpo.beta", "0.2", "--kto.beta", "0.3", "--pair.beta", "0.1", "--reward.learning-rate", "1e-3")
    methods = [*found.stage_methods(), found.method("dpo")]
    assert found.unread(methods) == {"kto"}
    assert found.unread([*methods, found.method("kto")]) == set()


def test_planted_rewards_need_a_world_that_has_them(tiny_model_path, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="policy_reward gold"):
        session("--model", str(tiny_model_path), "--dataset", str(tmp_path / "pairs.jsonl"), "--policy-reward", "gold")


def test_a_reward_method_must_train_a_reward_model():
    with pytest.raises(UserError, match="'dpo' trains no reward model"):
        session("--reward-method", "dpo").stage_methods()
    assert session("--reward-method", "reward-pl").stage_methods()[1].name == "reward-pl"


def test_the_policy_that_others_start_from_is_trained_by_a_method_of_ones_choice():
    assert [method.name for method in session().stage_methods()] == ["sft", "reward"]
    assert session("--sft-method", "trl-sft").stage_methods()[0].name == "trl-sft"
    with pytest.raises(UserError, match="sft_method 'dpo' does not learn from demonstrations"):
        session("--sft-method", "dpo").stage_methods()


def test_what_every_world_starts_from_are_fields_of_some_config():
    known = {field.name for cls in (*SHARED.values(), *COMPARE.values()) for field in fields(cls)}
    assert set(read_yaml(DEFAULTS / "every.yaml")) <= known
    for kind in get_args(get_type_hints(WorldConfig)["world"]):
        assert kind == "auto" or (DEFAULTS / f"{kind}.yaml").is_file()


def test_the_command_line_and_python_make_the_same_session(tmp_path):
    argv = ["--output", str(tmp_path), "--seeds", "0,1", "--algorithms", "kto", "--kto.beta", "0.3", "--quick"]
    values = {"output": str(tmp_path), "seeds": [0, 1], "algorithms": ["kto"], "quick": True}
    python, line = Session(values, {"kto": {"beta": 0.3}}, COMPARE), session(*argv)
    assert python.configs == line.configs
    assert python.method("kto").identity() == line.method("kto").identity()
    for values, message in (({"seeds": [0, 0]}, "twice"), ({"bet": 1}, "unknown field"), ({"lora_rank": "x"}, "lora")):
        with pytest.raises(UserError, match=message):
            Session(values)


def test_settings_take_no_others_place():
    with pytest.raises(ValueError, match="every session has settings called 'run'"):
        Session({}, configs={"run": AnnotateConfig})


def test_max_steps_caps_what_a_section_of_the_command_line_says():
    assert session("--dpo.max-steps", "12", "--max-steps", "2").method("dpo").train.max_steps == 2
    assert session("--pair.max-steps", "2", "--max-steps", "12").method("ipo").train.max_steps == 2
    assert session("--sampled.max-steps", "-1", "--max-steps", "12").method("ppo").train.max_steps == 12
    assert session("--dpo.max-steps=2", "--max-steps", "12").method("dpo", {"max_steps": 20}).train.max_steps == 20, (
        "a sweep means what it says"
    )


def test_what_trains_nothing_takes_no_training_settings():
    plain = session().method("best-of-n")
    shared = session("--sampled.learning-rate", "0.5", "--max-steps", "2").method("best-of-n")
    assert shared.identity() == plain.identity()
    assert shared.settings == {"n": 4}
    with pytest.raises(UserError, match=r"best-of-n: unknown field 'learning_rate'"):
        session("--best-of-n.learning-rate", "0.5").method("best-of-n")
    with pytest.raises(UserError, match="unknown option '--learning-rate'"):
        Session.read("test", flat="best-of-n", argv=["--learning-rate", "0.5"])
    assert Session.read("test", flat="best-of-n", argv=["--n", "8"]).method("best-of-n").settings == {"n": 8}


@pytest.mark.parametrize("value", ["many", "0", "1e3", "9" * 30])
def test_a_sections_own_max_steps_is_checked_before_it_is_capped(value, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"dpo: {{max_steps: {value}}}\n")
    for argv in (["--dpo.max-steps", value], ["--config", str(tmp_path / "mine.yaml")]):
        with pytest.raises(UserError, match=r"dpo: max_steps|dpo: .*no step to train"):
            session(*argv, "--max-steps", "5").method("dpo")


def test_a_budget_of_a_section_is_a_number_too():
    found = session("--dpo.budget", "1e5", "--dpo.budget-kind", "flops", "--max-steps", "3").method("dpo").train
    assert (found.budget, found.budget_kind, found.max_steps) == (1e5, "flops", 3)


ABSURD = [
    ("--seeds", "-1"),
    ("--seeds", "0,1" + "0" * 30),
    ("--seeds", ",".join(map(str, range(1001)))),
    ("--threads", "1000000000"),
    ("--lora-rank", "1000000000"),
    ("--max-prompt-tokens", "1" + "0" * 15),
    ("--eval-prompts", "1" + "0" * 18),
    ("--oracle-samples", "1" + "0" * 9),
    ("--baseline-draws", "1" + "0" * 7),
    ("--data-seed", "1" + "0" * 30),
    ("--dpo.per-device-train-batch-size", "1" + "0" * 12),
    ("--dpo.learning-rate", "inf"),
    ("--dpo.adam-beta1", "1"),
    ("--dpo.adam-epsilon", "0"),
    ("--ppo.rollout-prompts", "1" + "0" * 8),
    ("--grpo.samples-per-prompt", "1" + "0" * 8),
    ("--output", ""),
    ("--dataset", " "),
    ("--model", "./" + "x" * 300),
    ("--chat-template", "."),
    ("--target-modules", ","),
    ("--output", "~nobody-has-this-name/run"),
    ("--model", "~nobody-has-this-name/model"),
]


@pytest.mark.parametrize(("flag", "value"), ABSURD, ids=lambda text: text[:30])
def test_what_no_run_can_use_is_refused(flag, value):
    field = flag.strip("-").rpartition(".")[2].replace("-", "_")
    with pytest.raises(UserError, match=rf"{field}|home directory") as refused:
        session(flag, value).method(flag[2:].partition(".")[0])
    assert len(str(refused.value)) < 500


def numbers(cls):
    hints = get_type_hints(cls)
    whole = {int, float, int | None, float | None, tuple[int, ...]}
    return [field.name for field in fields(cls) if hints[field.name] in whole]


def test_every_number_of_every_config_has_bounds():
    """Whatever a field's own bounds are, none lets an infinity or 10^40 through."""
    configs = [registry.load(name).Config for name in registry.registered()]
    configs += [TrainConfig, LoraSettings, EvalConfig, WorldConfig, EndpointConfig, CourseConfig, CompareConfig]
    configs += [RunConfig, RewardSettings, AnnotateConfig, ConformanceConfig]
    tried = [(cls, name) for cls in configs for name in numbers(cls)]
    assert len(tried) > 100
    for cls, name in tried:
        for value in (float("inf"), 10**40, -(10**40)):
            for given in (value, [value]):
                with pytest.raises(UserError, match=name):
                    build(cls, {name: given}, "here")


def test_what_a_world_does_not_read_is_refused(tiny_model_path, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    given = ["--model", str(tiny_model_path), "--dataset", str(tmp_path / "pairs.jsonl")]
    with pytest.raises(UserError, match="takes no prompts"):
        session(*given, "--prompts", str(tmp_path / "pairs.jsonl"))
    with pytest.raises(UserError, match="takes no reward"):
        session("--world", "reviews", "--reward", "preflab.rewards.examples:happy_story")
    with pytest.raises(UserError, match="long_responses is for real data"):
        session("--long-responses", "truncate")
