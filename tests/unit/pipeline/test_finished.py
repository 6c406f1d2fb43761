"""Finished runs read back: which answers a comparison is of, and one line for whatever is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folder import answers, write_run, write_stage

from preflab.disk.seals import seal
from preflab.errors import UserError
from preflab.eval.pipeline.finished import names_of, read_run


def test_a_run_is_read_with_the_answers_behind_it(tmp_path: Path) -> None:
    run = read_run(str(write_run(tmp_path / "mine")))
    assert run.side.name == "mine"
    assert run.notes == []
    assert run.report == tmp_path / "mine" / "report"
    assert run.side.judges == {"r*"}
    assert {name: list(seeds) for name, seeds in run.side.samples.items()} == {"sft": ["0"], "dpo": ["0", "1"]}
    assert [row["response"] for row in run.side.samples["dpo"]["1"]] == ["dpo 1"] * 40


def test_evaluations_of_other_settings_are_not_taken_for_the_comparisons_own(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_stage(folder, "dpo-seed0", "bbbbbbbbbbbb", 0, answers("dpo", 0, better=0.2))  # of a sweep
    write_stage(folder, "dpo-seed1", "cccccccccccc", 1, answers("dpo", 1)[:16])  # a snapshot
    write_stage(folder, "dpo-seed7", "dddddddddddd", 7, answers("dpo", 7))  # of an earlier comparison
    write_stage(folder, "dpo-seed0-at-0.5", "eeeeeeeeeeee", 0, answers("dpo", 3))  # on its way back
    run = read_run(str(folder))
    assert run.notes == []
    assert run.side.samples["dpo"] == {"0": answers("dpo", 0), "1": answers("dpo", 1)}


def test_answers_that_are_gone_or_were_changed_are_left_out_in_a_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    shutil.rmtree(folder / "stages" / "eval-sft-aaaaaaaaaaaa")
    run = read_run(str(folder))
    assert run.notes == ["no samples of 'sft': its evaluations are not in the folder"]
    assert list(run.side.samples) == ["dpo"]
    shutil.rmtree(folder / "stages" / "eval-dpo-seed1-000000000001")
    write_stage(folder, "dpo-seed1", "000000000001", 1, answers("dpo", 1, better=0.01))
    assert "has the figures of the comparison" in read_run(str(folder)).notes[1]
    stage = folder / "stages" / "eval-dpo-seed1-000000000001"
    seal(stage)
    (stage / "samples.jsonl").write_text("{}\n")
    assert "is damaged" in read_run(str(folder)).notes[1]


def test_what_is_no_finished_run_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run folder .*nowhere"):
        read_run(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"holds no finished run: neither comparison.json nor evaluation.json"):
        read_run(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not finished, it has no comparison.json: the command that began it"):
        read_run(str(tmp_path))
    (tmp_path / "dpo.json").write_text("{}")
    (tmp_path / "ppo.json").write_text("{}")
    with pytest.raises(UserError, match=r"several results, dpo.json, ppo.json: name one of these files"):
        read_run(str(tmp_path))
    with pytest.raises(UserError, match=r"dpo.json has schema none"):
        read_run(str(tmp_path / "dpo.json"))
    folder = write_run(tmp_path / "run")
    broken = json.loads((folder / "comparison.json").read_text())
    (folder / "comparison.json").write_text(json.dumps({**broken, "pairwise": 3}))
    with pytest.raises(UserError, match=r"pairwise is of type int"):
        read_run(str(folder))


def test_a_single_recipes_result_and_an_evaluation_are_found_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    evaluation = {**json.loads((folder / "comparison.json").read_text()), "reference": "m"}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    assert "evaluation.json is there too" in read_run(str(folder)).notes[0]
    assert read_run(str(folder / "evaluation.json")).report == folder / "evaluation"
    (folder / "evaluation.json").unlink()
    (folder / "comparison.json").rename(folder / "dpo.json")
    assert read_run(str(folder)).path == folder / "dpo.json"


def test_a_method_that_is_named_like_a_path_reads_nothing_outside(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    named = json.loads((folder / "comparison.json").read_text())
    named["methods"]["../../x"] = named["methods"].pop("dpo")
    named["pairwise"], named["training"], named["diagnosis"], named["examined"] = [], {}, {}, {}
    (folder / "comparison.json").write_text(json.dumps(named))
    assert read_run(str(folder)).notes == ["no samples of '../../x': its evaluations are not in the folder"]


def test_runs_are_told_apart_by_as_little_as_it_takes(tmp_path: Path) -> None:
    for name in ("x/run", "y/run", "z"):
        (tmp_path / name).mkdir(parents=True)
    assert names_of([str(tmp_path / "x/run"), str(tmp_path / "z")]) == ["run", "z"]
    assert names_of([str(tmp_path / "x/run"), str(tmp_path / "y/run")]) == ["x/run", "y/run"]
    with pytest.raises(UserError, match="named twice"):
        names_of([str(tmp_path / "z"), str(tmp_path / "x/../z")])
