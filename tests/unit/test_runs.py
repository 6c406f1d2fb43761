"""Runs on disk: stages finished or absent, one writer, writes that are never half-done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from preflab import runs
from preflab.errors import UserError
from preflab.runs import Run, content_hash, provenance, read_jsonl, versions, write_json, write_jsonl, write_text


def writer(calls, text="done"):
    def build(folder):
        calls.append(sorted(p.name for p in folder.iterdir()))
        (folder / "weights").write_text(text)
        return {"score": 1.5}

    return build


def partials(run):
    return [p.name for p in run.stages.iterdir() if p.name.endswith(".partial")]


def test_a_stage_is_built_once(tmp_path):
    run, calls = Run(tmp_path), []
    first = run.stage("sft", {"seed": 0}, writer(calls))
    again = run.stage("sft", {"seed": 0}, writer(calls))
    assert len(calls) == 1
    assert (first.reused, again.reused) == (False, True)
    assert first.record == again.record == {"score": 1.5}
    assert first.folder == again.folder
    assert (again.folder / "weights").read_text() == "done"
    assert json.loads((again.folder / "stage.json").read_text())["inputs"]["seed"] == 0
    assert partials(run) == []


def test_other_inputs_names_or_versions_are_other_stages(tmp_path, monkeypatch):
    run, calls = Run(tmp_path), []
    keys = {run.stage(name, inputs, writer(calls)).key for name in ("a", "b") for inputs in ({"x": 0}, {"x": 1}, {})}
    monkeypatch.setattr(runs, "versions", lambda: {"torch": "another"})
    keys.add(run.stage("a", {"x": 0}, writer(calls)).key)
    assert len(keys) == len(calls) == 7


def test_what_is_killed_half_way_is_absent_then_rebuilt(tmp_path):
    run, calls = Run(tmp_path), []

    def dying(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("sft", {}, dying)
    assert [p.name for p in run.stages.iterdir()] == partials(run)
    stage = run.stage("sft", {}, writer(calls))
    assert not stage.reused
    assert calls == [["checkpoint"]], "what was left is there when building goes on"
    assert partials(run) == []


def test_a_stage_without_record_is_rebuilt(tmp_path):
    run, calls = Run(tmp_path), []
    stage = run.stage("sft", {}, writer(calls))
    (stage.folder / "stage.json").unlink()
    assert not run.stage("sft", {}, writer(calls)).reused
    assert len(calls) == 2


def test_a_record_that_is_no_json_leaves_no_stage(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        run.stage("sft", {}, lambda folder: {"loss": float("nan")})
    assert [p.name for p in run.stages.iterdir()] == partials(run)


HOLD = "import sys; from pathlib import Path; from preflab.runs import Run; run = Run(Path(sys.argv[1])); {then}"


def test_a_second_process_is_refused(tmp_path):
    run = Run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from preflab.runs import Run; from preflab.errors import UserError\n"
        "try: Run(Path(sys.argv[1]))\n"
        "except UserError as error: sys.exit(str(error))"
    )
    answer = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "in use by another process" in answer.stderr
    run._lock.close()
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 0


def test_a_killed_process_frees_its_folder_and_its_stage_is_absent(tmp_path):
    code = HOLD.format(then="run.stage('sft', {}, lambda f: (print('building', flush=True), sys.stdin.read()))")
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "building\n"
    with pytest.raises(UserError, match="in use"):
        Run(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    calls = []
    assert not Run(tmp_path).stage("sft", {}, writer(calls)).reused
    assert len(calls) == 1


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Run(tmp_path / "file" / "run")


def test_content_hash_depends_on_content_alone():
    assert content_hash({"a": 1, "b": [2.5, None]}) == content_hash({"b": [2.5, None], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert len(content_hash({})) == 12


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"a": bad})
    assert json.loads(path.read_text()) == {"a": 1}

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}, "the old content stays"


def test_writing_again_replaces(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "one")
    write_text(path, "zwei é")
    assert path.read_text(encoding="utf-8") == "zwei é"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_lines_round_trip(tmp_path):
    rows = [{"text": "a\nb é \u2028"}, {}, {"n": 1.5}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_provenance_is_plain():
    found = json.loads(json.dumps(provenance()))
    assert set(found) == {"command", "commit", "python", "machine", "versions"}
    assert set(versions()) == set(runs.LIBRARIES)
    assert versions()["torch"] != "absent"
