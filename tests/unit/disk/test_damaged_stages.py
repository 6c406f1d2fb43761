"""Finished stages are verified before they are used, and built again where they are damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from preflab.disk import stages as runs
from preflab.disk.seals import SUMS, files, seal
from preflab.disk.stages import Run
from preflab.errors import UserError


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
