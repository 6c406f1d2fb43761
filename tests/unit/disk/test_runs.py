"""Runs on disk: stages finished or absent, one writer, writes that are never half-done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from preflab.disk import stages as runs
from preflab.disk.files import read_jsonl, write_json, write_jsonl, write_result, write_text
from preflab.disk.seals import SUMS, files, seal
from preflab.disk.stages import Run, content_hash
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


# ---- damage --------------------------------------------------------------------------------------


def filled(text="weights"):
    def build(folder):
        (folder / "policy").mkdir(exist_ok=True)
        (folder / "policy" / "model.safetensors").write_bytes(text.encode() * 1000)
        (folder / "rows.jsonl").write_text('{"a": 1}\n')
        return {"score": 1.5}

    return build


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced(path, make):
    path.unlink()
    make(path)


def as_folder(folder):
    shutil.rmtree(folder)
    folder.write_text("a file")


WEIGHTS = "policy/model.safetensors"
DAMAGES = {
    "a flipped bit": lambda f: flipped(f / WEIGHTS),
    "cut in half": lambda f: os.truncate(f / WEIGHTS, 3500),
    "emptied": lambda f: os.truncate(f / WEIGHTS, 0),
    "one byte more": lambda f: (f / "rows.jsonl").write_text('{"a": 1}\n\n'),
    "deleted": lambda f: (f / "rows.jsonl").unlink(),
    "a file too many": lambda f: (f / "policy" / "adapter_config.json").write_text("{}"),
    "a folder for a file": lambda f: replaced(f / WEIGHTS, Path.mkdir),
    "a file for a folder": lambda f: as_folder(f / "policy"),
    "a link to the like": lambda f: replaced(f / WEIGHTS, lambda p: p.symlink_to(f.parent.parent / "like")),
    "a link to itself": lambda f: replaced(f / WEIGHTS, lambda p: p.symlink_to(p)),
    "a pipe": lambda f: replaced(f / WEIGHTS, os.mkfifo),
    "the folder linked away": lambda f: (f / "policy").rename(f.parent.parent / "p") and (f / "policy").symlink_to("x"),
    "the record flipped": lambda f: flipped(f / "stage.json"),
    "the record a list": lambda f: ((f / "stage.json").write_text("[1]"), seal(f)),
    "a record of other types": lambda f: ((f / "stage.json").write_text('{"inputs": 1, "record": 2}'), seal(f)),
    "a record nested too deep": lambda f: ((f / "stage.json").write_text("[" * 10**5), seal(f)),
    "the record gone": lambda f: (f / "stage.json").unlink(),
    "digests flipped": lambda f: flipped(f / SUMS),
    "digests cut": lambda f: os.truncate(f / SUMS, 80),
    "digests emptied": lambda f: os.truncate(f / SUMS, 0),
    "digests gone": lambda f: (f / SUMS).unlink(),
    "digests a folder": lambda f: replaced(f / SUMS, Path.mkdir),
    "the stage a file": lambda f: as_folder(f),
    "the stage a link to itself": lambda f: (shutil.rmtree(f), f.symlink_to(f)),
    "the stage emptied": lambda f: (shutil.rmtree(f), f.mkdir()),
}


@pytest.mark.parametrize("fresh", [True, False], ids=["another process", "the same process"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_stage_is_said_and_built_again(tmp_path, caplog, name, fresh):
    run = Run(tmp_path)
    folder = run.stage("sft", {"seed": (1, 2)}, filled()).folder
    whole = {name: path.read_bytes() for name, path in files(folder).items()}
    shutil.copy(folder / WEIGHTS, tmp_path / "like")
    DAMAGES[name](folder)
    if fresh:
        run._lock.close()
        run = Run(tmp_path)
    again = run.stage("sft", {"seed": (1, 2)}, filled())
    assert not again.reused
    assert {name: path.read_bytes() for name, path in files(folder).items()} == whole
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert folder.name in said[0]
    assert "built again" in said[0]
    assert "\n" not in said[0]
    assert run.stage("sft", {"seed": (1, 2)}, filled()).reused
    assert os.path.lexists(tmp_path / "damaged" / folder.name)
    assert [path.name for path in run.stages.iterdir()] == [folder.name]


def test_another_stages_folder_in_its_place_is_noticed(tmp_path, caplog):
    run = Run(tmp_path)
    mine, other = (run.stage("sft", {"seed": seed}, filled(str(seed))).folder for seed in (0, 1))
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    assert not run.stage("sft", {"seed": 0}, filled("0")).reused
    assert "of another stage" in caplog.text


def test_damaged_twice_it_is_built_twice(tmp_path):
    run = Run(tmp_path)
    for _ in range(2):
        folder = run.stage("sft", {}, filled()).folder
        flipped(folder / WEIGHTS)
    assert not run.stage("sft", {}, filled()).reused


def test_a_stage_is_hashed_once_in_a_process(tmp_path, monkeypatch):
    Run(tmp_path).stage("sft", {}, filled())
    run, hashed = Run(tmp_path), []
    monkeypatch.setattr(runs, "damage", lambda folder: hashed.append(folder))
    assert all(run.stage("sft", {}, filled()).reused for _ in range(3))
    assert len(hashed) == 1


def test_what_cannot_be_moved_away_is_a_users_error(tmp_path, monkeypatch):
    run = Run(tmp_path)
    flipped(run.stage("sft", {}, filled()).folder / WEIGHTS)
    (tmp_path / "damaged").write_text("in the way")
    with pytest.raises(UserError, match="cannot be moved"):
        run.stage("sft", {}, filled())


def test_all_of_a_stage_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    """In this order: every file, every folder, the rename, the folder of stages."""
    done, fsync, replace = [], os.fsync, Path.replace

    def syncing(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def replacing(path, target):
        done.append(f"-> {Path(target).name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    stage = Run(tmp_path).stage("sft", {}, filled())
    at = done.index(f"-> {stage.folder.name}")
    working = f".{stage.folder.name}.partial"
    assert {"model.safetensors", "rows.jsonl", "stage.json", "policy", f".{SUMS}.tmp", working} <= set(done[:at])
    assert done[at + 1 :] == ["stages"]


def test_a_file_in_the_place_of_a_working_folder_is_no_obstacle(tmp_path):
    run = Run(tmp_path)
    folder = run.stage("sft", {}, filled()).folder
    shutil.rmtree(folder)
    (run.stages / f".{folder.name}.partial").write_text("a file")
    assert not run.stage("sft", {}, filled()).reused


def test_what_is_no_file_does_not_get_into_a_stage(tmp_path):
    def build(folder):
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to("loop")
        return filled()(folder)

    stage = Run(tmp_path).stage("sft", {}, build)
    assert set(files(stage.folder)) == {WEIGHTS, "rows.jsonl", "stage.json"}


def test_a_file_in_the_place_of_a_folder_of_an_unfinished_stage_is_named(tmp_path):
    def build(folder):
        (folder / "policy").write_text("")
        (folder / "policy" / "model").mkdir()

    def other(folder):
        raise FileExistsError(17, "File exists", "/elsewhere")

    with pytest.raises(UserError, match=r"in the way .*partial: model"):
        Run(tmp_path).stage("sft", {}, build)
    with pytest.raises(FileExistsError):
        Run(tmp_path / "b").stage("sft", {}, other)


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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}, "the old content stays"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"], "what was begun takes no space"


def test_a_result_is_written_whatever_is_in_it(tmp_path, caplog):
    write_result(tmp_path / "comparison.json", {"kl": {"mean": float("inf")}, "steps": 3})
    assert json.loads((tmp_path / "comparison.json").read_text()) == {"kl": {"mean": None}, "steps": 3}
    assert "kl.mean is inf" in caplog.text


def test_a_place_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "x.json"):
        with pytest.raises(UserError, match="cannot be written"):
            write_json(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a"', "[1]\n", "[" * 10**5, "\udcff"])
def test_lines_that_are_no_rows_are_named(tmp_path, text):
    (tmp_path / "rows.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_writing_again_replaces(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "one")
    write_text(path, "zwei é")
    assert path.read_text(encoding="utf-8") == "zwei é"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_lines_round_trip(tmp_path):
    rows = [{"text": "a\nb é \u2028"}, {"half a character": "\ud83d"}, {}, {"n": 1.5}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_provenance_is_plain():
    found = json.loads(json.dumps(provenance()))
    assert set(found) == {"command", "commit", "python", "machine", "versions"}
    assert set(versions()) == set(LIBRARIES)
    assert versions()["torch"] != "absent"
