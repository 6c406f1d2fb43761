"""Pieces built by processes started anew: each with a device of its own, replaced where one dies, gone with us."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import toy

from preflab.disk.guest import GuestRun
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.executing import execute
from preflab.execution.spawned import Spawned, visible_devices


@pytest.fixture
def run(tmp_path):
    opened = Run(tmp_path / "run")
    yield opened
    opened.close()


def build(run, folder, *names, size=2, **how):
    execute(run, toy.only(toy.graph(run, folder), *names), Spawned(partial(toy.joined, folder), size, **how))
    return {name: run.stage(name, {}, toy.forbidden).record for name in names}


def test_few_processes_build_all_pieces_each_seeing_a_device_of_its_own(run, tmp_path, capfd):
    found = build(run, tmp_path, "a", "b", "c", devices=["5", "GPU-7f"])
    assert found["c"]["of"] == [found["a"]["pid"], found["b"]["pid"]]
    seen = {record["pid"]: record["sees"] for record in found.values()}
    assert sorted(seen.values()) == ["5", "GPU-7f"], "two processes, and not one for each piece"
    said = capfd.readouterr().err
    assert all(f": {name} done in" in said for name in "abc")


def test_without_devices_each_has_one_thread_and_sees_what_we_see(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    crew = Spawned(partial(toy.joined, tmp_path), 2)
    assert crew.environment(1)["OMP_NUM_THREADS"] == "1"
    assert crew.environment(1)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("named", "found"), [(None, ["0", "1"]), ("3,7", ["3", "7"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_devices_are_those_that_this_process_sees(monkeypatch, named, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_devices() == found
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert visible_devices() == []


def test_a_process_that_dies_is_replaced_and_goes_on_from_what_was_sealed(run, tmp_path, caplog):
    (tmp_path / "deaths").write_text("2")
    found = build(run, tmp_path, "dies", "after")
    assert "the process of dies was killed, by the system if memory ran out; it is begun again" in caplog.text
    first = int((run.stages / run.stage("dies", {}, toy.forbidden).folder.name / "checkpoint-1/weights").read_text())
    assert first != found["dies"]["pid"], "its checkpoint is that of the first attempt"
    assert not list(run.stages.glob(".*")), "what attempts left is gone"


def test_one_that_always_dies_is_left_for_later_with_what_needs_it(run, tmp_path, caplog):
    (tmp_path / "deaths").write_text("9")
    with pytest.raises(AssertionError, match="second time"):
        build(run, tmp_path, "dies", "after")
    assert "it is done again later" in caplog.text
    assert "after: left for later" in caplog.text
    assert (tmp_path / "times").read_text() == "xx"


def test_a_mistake_ends_all_at_once(run, tmp_path):
    began = time.monotonic()
    with pytest.raises(UserError, match="row 7"):
        build(run, tmp_path, "waits", "fails")
    assert time.monotonic() - began < 45
    assert not list(run.stages.glob("waits-*"))


def test_other_versions_than_ours_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("preflab.execution.anew.versions", lambda: {"torch": "0.0"})
    crew = Spawned(partial(toy.joined, tmp_path), 1)
    with pytest.raises(UserError, match=r"other versions than this process: .*torch \S+ and 0.0"):
        execute(run, toy.only(toy.graph(run, tmp_path), "a"), crew)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="choose such an --output"):
        GuestRun(tmp_path / "nowhere")


PARENT = """
import sys
from functools import partial
from pathlib import Path
import toy
from preflab.disk.stages import Run
from preflab.execution.executing import execute
from preflab.execution.spawned import Spawned

folder = Path(sys.argv[1])
run = Run(folder / "run")
execute(run, toy.only(toy.graph(run, folder), "waits"), Spawned(partial(toy.joined, folder), 1))
"""


def test_none_outlives_a_killed_parent(tmp_path):
    environment = Spawned(partial(toy.joined, tmp_path), 1).environment(0)
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=environment) as parent:
        until = time.monotonic() + 120
        while not ((tmp_path / "begun").exists() and (tmp_path / "begun").read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        parent.kill()
    time.sleep(2.0)
    worker = int((tmp_path / "begun").read_text())
    assert not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]
