"""The result, told once to the trackers that are asked for."""

from __future__ import annotations

import pytest
from report_fixture import comparison, typed

from preflab.errors import UserError
from preflab.eval.pipeline import tracked
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.results import Result
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.tracked import outcome_of, report_result


@pytest.fixture
def told(monkeypatch):
    found = []

    def report(names, run, outcome):
        found.extend((name, run, outcome) for name in names)
        return [name for name in names if name != "mlflow"]

    monkeypatch.setattr(tracked, "report", report)
    return found


def session(folder, values=None, sections=None):
    folder.mkdir(exist_ok=True)
    return Session({"output": str(folder), **(values or {})}, sections, COMPARE)


def test_what_is_told_is_what_was_found(tmp_path):
    found = typed(comparison())
    outcome = outcome_of(found, tmp_path / "report.html")
    gold = found.methods["dpo"].figures["gold_reward"]
    assert outcome.figures["dpo/gold_reward"] == gold.mean
    assert ["dpo", "gold_reward", gold.mean, gold.low, gold.high, gold.n] in outcome.rows
    assert outcome.text.startswith(found.headline)
    assert "| method |" in outcome.text


def test_a_result_is_told_once_to_each(told, tmp_path):
    result = Result(typed(comparison()), {})
    asked = session(tmp_path / "mine", {"track": ["wandb", "mlflow"]})
    for _ in range(2):
        report_result(asked, result, ["dpo"])
    assert [name for name, *_ in told] == ["wandb", "mlflow", "mlflow"], "the second did not take it"
    run = told[0][1]
    assert run.name == "mine-result"
    assert run.group.startswith("mine-")
    other = comparison()
    other["headline"] = "something else"
    report_result(asked, Result(typed(other), {}), ["dpo"])
    assert [name for name, *_ in told][3:] == ["wandb", "mlflow"]


def test_a_methods_own_tracker_is_told_too_and_nobody_unasked(told, tmp_path):
    result = Result(typed(comparison()), {})
    report_result(session(tmp_path / "one"), result, ["dpo", "ppo"])
    assert told == []
    assert not (tmp_path / "one" / "tracked.json").exists()
    report_result(session(tmp_path / "two", None, {"dpo": {"report_to": ["trackio"]}}), result, ["dpo", "ppo"])
    assert [name for name, *_ in told] == ["trackio"]


def test_what_is_no_tracker_is_found_before_anything_is_made(tmp_path):
    for values, sections in (({"track": ["wand"]}, None), ({}, {"dpo": {"report_to": ["wand"]}})):
        asked = Session({"output": str(tmp_path / "new"), **values}, sections, COMPARE)
        with pytest.raises(UserError, match="there is no tracker 'wand'"):
            asked.open([asked.method("dpo")])
    assert not (tmp_path / "new").exists()


def test_runs_of_a_comparison_are_of_the_group_that_training_has(told, tmp_path):
    from preflab.experiment.opening import open_experiment

    asked = session(tmp_path / "mine", {"track": ["wandb"], "quick": True})
    report_result(asked, Result(typed(comparison()), {}), ["dpo"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("preflab.experiment.opening.check_trackers", lambda names: None)
        experiment = open_experiment(asked.run, asked.world, asked.lora)
    experiment.run.close()
    assert experiment.tracking.group == told[0][1].group
    assert experiment.tracking.trackers == ("wandb",)
