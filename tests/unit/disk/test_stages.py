"""Runs on disk: stages finished or absent, one writer, writes that are never half-done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from preflab.disk import stages as runs
from preflab.disk.files import write_jsonl
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.versions import LIBRARIES, provenance, versions


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


def test_a_record_that_json_cannot_hold_costs_no_work(tmp_path, caplog):
    class Odd:
        def __repr__(self):
            return "an odd one"

    loop = []
    loop += [loop, loop]
    record = {
        "loss": float("nan"),
        "steps": (1, np.int64(2)),
        "rate": np.float32(0.5),
        3: {"deep": [float("-inf"), b"bytes", Odd()]},
        "huge": 10**5000,
        "loop": loop,
    }
    calls = []
    first = Run(tmp_path).stage("sft", {}, lambda folder: {**writer(calls)(folder), **record})
    assert first.record["loss"] is None
    assert first.record["steps"] == [1, 2]
    assert first.record["rate"] == 0.5
    assert first.record["3"]["deep"] == [None, "b'bytes'", "an odd one"]
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1
    assert "loss is nan" in said[0]
    assert "3.deep.0 is -inf" in said[0]
    assert "huge" in said[0]


def test_a_full_disk_is_one_line_and_the_next_attempt_goes_on(tmp_path, monkeypatch):
    run, calls = Run(tmp_path), []
    first = run.stage("sft", {}, writer(calls))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def wrapped(folder):
        (folder / "half").write_text("of it")
        raise RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed")

    for build in (full, wrapped):
        with pytest.raises(UserError, match=r"no space left .* nothing finished is lost"):
            run.stage("reward", {}, build)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no space left"):
            run.stage("reward", {}, writer(calls))
    assert not run.stage("reward", {}, writer(calls)).reused
    assert run.stage("sft", {}, writer(calls)).reused
    assert (first.folder / "weights").read_text() == "done"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder], check=False).returncode
    ):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


WRITERS = {
    "safetensors": lambda f: save_file({"x": torch.zeros(10**5)}, f / "x.safetensors"),
    "torch": lambda f: torch.save(torch.zeros(10**5), f / "x.pt"),
    "numpy": lambda f: np.save(f / "x.npy", np.zeros(10**5)),
    "text": lambda f: (f / "x.txt").write_text("x" * 10**6),
    "JSON lines": lambda f: write_jsonl(f / "x.jsonl", [{"x": "x" * 10**6}]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_meets_a_full_disk_says_so(small_disk, name):
    run = Run(small_disk / "run")
    sft = run.stage("sft", {}, writer([]))
    with pytest.raises(UserError, match="no space left"):
        run.stage("reward", {}, lambda folder: WRITERS[name](folder) or {})
    assert run.stage("sft", {}, writer([])).reused
    for left in run.stages.glob(".*"):
        shutil.rmtree(left)
    assert not run.stage("reward", {}, writer([])).reused
    assert sft.folder.is_dir()


HOLD = "import sys; from pathlib import Path; from preflab.disk.stages import Run; run = Run(Path(sys.argv[1])); {then}"


def test_a_second_process_is_refused(tmp_path):
    run = Run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from preflab.disk.stages import Run\n"
        "from preflab.errors import UserError\n"
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


def test_provenance_is_plain():
    found = json.loads(json.dumps(provenance()))
    assert set(found) == {"command", "commit", "python", "machine", "versions"}
    assert set(versions()) == set(LIBRARIES)
    assert versions()["torch"] != "absent"
