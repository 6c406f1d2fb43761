"""`--plan` says of a run what the run then does, and leaves everything as it is."""

from __future__ import annotations

import json

import pytest
from recipe_runner import run, run_warm

from benchmarks import spread
from preflab.errors import UserError
from preflab.eval.pipeline import foretelling, outline
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.plan_table import sentences
from preflab.eval.pipeline.planning import PLAN
from preflab.eval.pipeline.session import Session
from preflab.planning.pace import Pace


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    monkeypatch.setattr(foretelling, "measured", lambda *args: Pace(1e9, 1e9, 1e8))


def session(options, *more):
    return Session.read("", {**COMPARE, **PLAN}, argv=[*map(str, options), "--interpolate", "1", *more])


@pytest.fixture(scope="module")
def records(finished):
    found = {}
    for path in (finished[0] / "stages").glob("*/stage.json"):
        content = json.loads(path.read_text())
        found[content["inputs"]["stage"]] = content["record"]
    return found


def test_what_is_finished_is_said_by_the_keys_of_the_run_itself(options, finished):
    plan = outline.plan_comparison(session(options, "--output", str(finished[0])))
    named = {stage.name for stage in plan.stages}
    assert {"sft", "reward", "judge", "dpo-seed0", "ppo-seed0", "eval-dpo-seed0", "oracle line"} <= named
    assert {stage.name for stage in plan.stages if stage.finished} == named
    assert len(plan.stages) == len(list((finished[0] / "stages").iterdir())), "no stage is built beside the graph"
    other = outline.plan_comparison(session(options, "--output", str(finished[0]), "--dpo.beta", "0.3"))
    assert {stage.name for stage in other.stages if not stage.finished} == {"dpo-seed0", "eval-dpo-seed0"}
    needs = {stage.name: stage.needs for stage in other.stages}
    assert needs["dpo-seed0"] == ("reference sft: pairs",)
    assert set(needs["eval-dpo-seed0"]) == {"dpo-seed0", "reward", "judge"}
    assert needs["ppo-seed0"] == ("reward",)


def test_steps_tokens_and_arithmetic_are_those_that_the_run_took(options, records, tmp_path):
    plan = outline.plan_comparison(session(options, "--output", str(tmp_path / "other")))
    told = {stage.name: stage.most for stage in plan.stages}
    shared = records["dpo-seed0"]["prompts"] / records["reference"]["groups"]  # of the rows, those that it read
    for name in ("sft", "reward", "judge", "dpo-seed0"):
        record, cost = records[name], told[name]
        assert cost.steps == record["steps"]
        assert cost.tokens == pytest.approx(record["tokens"], rel=0.1)
        own = record["flops"] - (told["reference sft: pairs"].flops * shared if name == "dpo-seed0" else 0)
        assert cost.flops == pytest.approx(own, rel=0.1)
    ppo, record = told["ppo-seed0"], records["ppo-seed0"]
    assert (ppo.steps, ppo.prompts) == (record["steps"], record["prompts"])
    assert ppo.sampled >= record["sampled_tokens"]
    assert ppo.flops >= 0.99 * record["flops"]


def test_a_reference_of_which_little_is_read_is_no_stage_of_its_own(options, tmp_path):
    few = session(options, "--output", str(tmp_path / "other"), "--dpo.max-steps", "3")
    told = {stage.name: stage for stage in outline.plan_comparison(few).stages}
    assert (told["dpo-seed0"].needs, "reference sft: pairs" in told) == (("sft",), False)
    whole = outline.plan_comparison(session(options, "--output", str(tmp_path / "other")))
    kept = {stage.name: stage for stage in whole.stages}["dpo-seed0"].most
    assert told["dpo-seed0"].most.flops > kept.flops * 3 / kept.steps, "it makes the reference's passes itself"


def test_trials_and_parts_of_the_preferences_are_planned_by_the_keys_of_the_run_itself(copy, options, tmp_path):
    asked = ["--tune", "2", "--train-fraction", "0.5", "--algorithms", "dpo,ppo", "--validation-fraction", "0.2"]
    answer = run_warm("compare.py", *options, "--output", copy, *asked, cwd=tmp_path)
    assert answer.status == 0, answer.err
    plan = outline.plan_comparison(session(options, "--output", str(copy), *asked))
    ahead = {f"tune-{method}-{number}" for method in ("dpo", "ppo") for number in (0, 1)} | {"sft", "reward"}
    # The chosen settings are known to the run alone.
    assert ahead <= {stage.name for stage in plan.stages if stage.finished}


def test_a_part_of_the_preferences_costs_a_part(options, tmp_path):
    asked = ["--train-fraction", "0.25", "--algorithms", "dpo", "--dpo.max-steps=-1", "--dpo.num-train-epochs", "2"]
    plan = outline.plan_comparison(session(options, "--output", str(tmp_path / "new"), *asked))
    costs = {stage.name: stage.most for stage in plan.stages}
    assert costs["dpo-seed0-of-0.25"].flops < 0.5 * costs["dpo-seed0"].flops


def test_what_a_comparison_refuses_is_not_planned(options, tmp_path):
    with pytest.raises(UserError, match="--train-fraction trains for as many epochs"):
        outline.plan_comparison(session(options, "--train-fraction", "0.5", "--match", "tokens"))


def test_that_mixed_log_probabilities_take_two_policies_is_said(options, tmp_path, caplog):
    here = (options, "--output", str(tmp_path / "run"), "--interpolate", "0.5")
    outline.plan_comparison(session(*here))
    assert "one is counted" not in caplog.text
    outline.plan_comparison(session(*here, "--interpolate-by", "log-probabilities"))
    assert "one is counted" in caplog.text


def test_nothing_is_written(options, tmp_path):
    answer = run("compare.py", *options, "--plan", "--output", "nowhere", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "dpo-seed0" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_where_it_does_not_fit_settings_are_named_under_which_it_does(options, tmp_path, monkeypatch):
    here = session(options, "--output", str(tmp_path / "run"))
    whole = {stage.name: stage.most for stage in outline.plan_comparison(here).stages}["dpo-seed0"]
    monkeypatch.setattr(foretelling, "free_memory", lambda device: whole.peak - 1)
    plan = outline.plan_comparison(here)
    (ways,) = (stage.ways for stage in plan.stages if stage.name == "dpo-seed0")
    ways = [way for way in ways if way.startswith("per_device_train_batch_size")]
    assert any("dpo-seed0 will not fit" in sentence for sentence in sentences(plan))
    (way,) = ways
    size = way.split()[1]
    smaller = session(options, "--output", str(tmp_path / "run"), "--dpo.per-device-train-batch-size", size)
    (fits,) = (stage for stage in outline.plan_comparison(smaller).stages if stage.name == "dpo-seed0")
    assert fits.most.peak <= whole.peak - 1
    assert not fits.ways


def test_what_auto_leaves_open_is_found(options, tmp_path, monkeypatch):
    auto = ("--dpo.train-batch-size", "8", "--dpo.per-device-train-batch-size", "auto")
    here = session(options, "--output", str(tmp_path / "run"), *auto)
    whole = {stage.name: stage.most for stage in outline.plan_comparison(here).stages}["dpo-seed0"]
    monkeypatch.setattr(foretelling, "free_memory", lambda device: whole.peak - 1)
    plan = outline.plan_comparison(here)
    (found,) = (stage for stage in plan.stages if stage.name == "dpo-seed0")
    assert found.most.peak < whole.peak
    assert found.most.steps == whole.steps
    assert not found.ways
    assert "dpo-seed0: 4 of 8 prompts go through a pass together." in sentences(plan)


def test_a_budget_says_how_many_steps_there_are(options, tmp_path):
    plain, held, timed = (
        {
            stage.name: stage
            for stage in outline.plan_comparison(session(options, "--output", str(tmp_path), *more)).stages
        }
        for more in ((), ("--match", "tokens", "--budget", "2000"), ("--match", "time", "--budget", "60"))
    )
    for name in ("dpo-seed0", "ppo-seed0"):
        one = plain[name].least.tokens / plain[name].least.steps
        assert held[name].least.steps == pytest.approx(2000 / one, abs=1)
        assert held[name].least.tokens == pytest.approx(2000, rel=0.2)
        assert timed[name].most.steps is None
    assert held["sft"].most.steps == plain["sft"].most.steps


def test_a_base_in_bits_is_planned_for(options, tmp_path, caplog):
    pytest.importorskip("bitsandbytes")
    plain = outline.plan_comparison(session(options, "--output", str(tmp_path)))
    bits = outline.plan_comparison(session(options, "--output", str(tmp_path), "--load-in", "4bit"))
    assert bits.weights < plain.weights
    assert "restoring them from 4bit comes on top" in caplog.text


def test_one_method_is_planned_without_its_evaluation_too(options, tmp_path):
    answer = run("train.py", "dpo", *options, "--plan", "--evaluate", "false", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "evaluation" not in answer.out.partition("In all")[0]


def test_a_finished_comparison_can_be_replayed_with_more_workers(finished):
    graph, seconds = spread.measured(finished[0])
    assert len(graph) == len(seconds) == len(list((finished[0] / "stages").iterdir()))
    alone, many = (spread.replayed(graph, seconds, workers) for workers in (1, 64))
    assert alone.wall == pytest.approx(sum(seconds.values()))
    path = sum(seconds[name] for name in ("sft", "reward", "ppo-seed0", "eval-ppo-seed0"))
    assert path <= many.wall < alone.wall
