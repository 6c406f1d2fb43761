"""A comparison built by processes that open it anew: every figure and weight is that of one process."""

from __future__ import annotations

import pytest
from recipe_runner import figures, names_of, read, stages

from preflab.eval.pipeline import COMPARE, Session, compare, train
from preflab.eval.records.typed import to_json
from preflab.execution.spawned import Spawned

TUNED = ["--algorithms", "dpo,ppo", "--tune", "2", "--validation-fraction", "0.2", "--interpolate", "0.5"]


@pytest.fixture
def spawned(monkeypatch):
    """Let processes started anew build what forked ones would."""
    crews = []

    def crew_of(session, run, workers, opens):
        crews.append(Spawned(opens, 2))
        return crews[-1]

    monkeypatch.setattr("preflab.eval.pipeline.comparing.crew_of", crew_of)
    monkeypatch.setattr("preflab.eval.pipeline.training.crew_of", crew_of)
    return crews


def compared(options, folder, *more):
    session = Session.read("", COMPARE, argv=[*map(str, options), "--output", str(folder), *more])
    return {**figures(to_json(compare(session).comparison)), "config": {}}


def test_processes_started_anew_find_the_same_figures(finished, options, tmp_path, spawned, capfd):
    found = compared(options, tmp_path / "run", "--interpolate", "1")
    assert len(spawned) == 1
    assert set(stages(tmp_path / "run")) == set(stages(finished[0]))
    assert found == {**figures(read(finished[0] / "comparison.json")), "config": {}}
    assert "reused" not in capfd.readouterr().err, "nothing was there before it was built"


@pytest.mark.slow
def test_they_know_the_settings_that_tuning_chose(options, tmp_path, spawned, monkeypatch):
    found = compared(options, tmp_path / "spawned", *TUNED)
    assert len(spawned) == 2, "trials, and then what they chose"
    monkeypatch.undo()
    assert found == compared(options, tmp_path / "here", *TUNED, "--workers", "1")
    assert set(stages(tmp_path / "spawned")) == set(stages(tmp_path / "here"))


def test_seeds_of_one_method_are_spread_too(options, tmp_path, spawned, capfd):
    session = Session.read(
        "", {}, flat="dpo", argv=[*map(str, options), "--output", str(tmp_path / "run"), "--seeds", "0,1"]
    )
    result = train(session, "dpo")
    assert {stage.name for stage in result.stages} == {"dpo-seed0", "dpo-seed1"}
    assert all(stage.reused for stage in result.stages), "they were built elsewhere"
    assert {"sft", "eval-start", "eval-dpo-seed1"} <= names_of(set(stages(tmp_path / "run")))
