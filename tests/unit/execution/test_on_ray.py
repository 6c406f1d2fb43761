"""Pieces built by actors of a Ray cluster of this machine: replaced where they die, and gone with the crew."""

import os
import socket
import time
from functools import partial

import pytest
import toy

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.executing import execute

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'preflab[ray]'")

from preflab.execution.on_ray import QUIET, OnRay, check  # noqa: E402


@pytest.fixture
def run(tmp_path):
    opened = Run(tmp_path / "run")
    yield opened
    opened.close()
    assert not ray.is_initialized(), "the cluster is gone with the crew"


def build(run, folder, *names, size=2):
    execute(run, toy.only(toy.graph(run, folder), *names), OnRay(partial(toy.joined, folder), "local", size))
    return {name: run.stage(name, {}, toy.forbidden).record for name in names}


def test_pieces_are_built_by_actors_that_stay_and_one_that_dies_goes_on_elsewhere(run, tmp_path, caplog, capfd):
    (tmp_path / "deaths").write_text("3")
    found = build(run, tmp_path, "a", "b", "c", "dies", "after")
    assert found["c"]["of"] == [found["a"]["pid"], found["b"]["pid"]]
    pids = {record["pid"] for record in found.values()}
    assert os.getpid() not in pids
    assert len(pids) <= 4, "two, and one more for each that died and built something afterwards"
    assert caplog.text.count("the process of dies was killed, by the system if memory ran out; it is begun again") == 2
    first = int((run.stage("dies", {}, toy.forbidden).folder / "checkpoint-1/weights").read_text())
    assert first != found["dies"]["pid"], "its checkpoint is that of the first attempt"
    assert not list(run.stages.glob(".*"))
    assert capfd.readouterr().out == "", "results go there, and nothing else"
    assert {name: os.environ[name] for name in QUIET} == QUIET


def test_a_mistake_ends_all_at_once_and_one_that_always_dies_ends_in_one_too(run, tmp_path):
    began = time.monotonic()
    with pytest.raises(UserError, match="row 7"):
        build(run, tmp_path, "waits", "fails")
    assert time.monotonic() - began < 55
    (tmp_path / "deaths").write_text("99")
    with pytest.raises(
        UserError, match=r"the process of dies was killed, .*, 4 times; what it had sealed by then is kept"
    ):
        build(run, tmp_path, "dies", "after")


def test_a_cluster_that_is_not_there_is_said_in_one_line(tmp_path):
    opens = partial(toy.joined, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(UserError, match="no cluster can be reached there"):
            OnRay(opens, f"127.0.0.1:{taken.getsockname()[1]}", None)
    with pytest.raises(UserError, match=r"it takes local, auto .* or HOST:PORT"):
        check("somewhere")


@pytest.mark.parametrize(
    ("there", "threads", "said"),
    [
        ({"CPU": 8.0, "GPU": 2.0}, 1, "2 GPUs"),
        ({"CPU": 3.0}, 1, "3 CPUs"),
        ({"CPU": 7.0, "GPU": 9.0}, 2, "3 times 2 CPUs"),
    ],
)
def test_a_cluster_that_is_too_small_is_said_before_anything_waits_for_room(
    tmp_path, monkeypatch, there, threads, said
):
    monkeypatch.setattr("ray.init", lambda *args, **kwargs: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: there)
    opens = partial(toy.joined, tmp_path)
    with pytest.raises(UserError, match=f"--workers 4: the cluster at --ray local has {said}; give . or less"):
        OnRay(opens, "local", 4, threads)
    crew = OnRay(opens, "local", None, threads)
    assert str(crew.size) == said[0]
    crew.__exit__()
