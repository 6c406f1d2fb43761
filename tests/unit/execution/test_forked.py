"""Pieces of a run made side by side: what they need comes first, nothing is lost or silent, none outlives us."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.executing import Elsewhere, execute
from preflab.execution.forked import Forked
from preflab.execution.graph import Graph, Piece


def stage(run, name, needs=(), seconds=0.0, content=None):
    """A piece that builds one stage, of what it finds of those that it needs."""

    def work(folder):
        time.sleep(seconds)
        found = [run.stage(other, {}, forbidden).record["pid"] for other in needs]
        return {"pid": os.getpid(), "of": found}

    return Piece(name, lambda: run.stage(name, {}, work), tuple(needs))


def forbidden(folder):
    raise AssertionError("built a second time")


@pytest.fixture
def run(tmp_path):
    opened = Run(tmp_path / "run")
    yield opened
    opened.close()


def test_each_piece_is_built_once_elsewhere_after_those_that_it_needs(run, capfd):
    pieces = [stage(run, "a", seconds=0.2), stage(run, "b"), stage(run, "c", ("a", "b")), stage(run, "d", ("c",))]
    execute(run, Graph(pieces), Forked(run, 2))
    found = {name: run.stage(name, {}, forbidden).record for name in "abcd"}
    assert len({record["pid"] for record in found.values()} | {os.getpid()}) == 5
    assert found["c"]["of"] == [found["a"]["pid"], found["b"]["pid"]]
    said = capfd.readouterr().err
    assert all(f": {name} done in" in said for name in "abcd")
    assert "reused" not in said


def test_they_run_at_the_same_time_and_no_more_of_them_than_asked_for(run):
    def work(folder):
        began = time.monotonic()
        time.sleep(0.5)
        return {"from": began, "to": time.monotonic()}

    names = [f"s{number}" for number in range(4)]
    execute(run, Graph([Piece(name, lambda name=name: run.stage(name, {}, work)) for name in names]), Forked(run, 2))
    spans = [run.stage(name, {}, forbidden).record for name in names]
    at_once = [sum(other["from"] <= one["from"] < other["to"] for other in spans) for one in spans]
    assert max(at_once) == 2


def test_a_stage_that_two_pieces_need_is_built_by_one_of_them(run):
    def common(folder):
        (folder / "by").write_text(str(os.getpid()))
        time.sleep(0.5)
        return {"pid": os.getpid()}

    def own(name):
        def work(folder):
            inner = run.stage("common", {}, common)
            time.sleep(0.2)
            return {"of": inner.record["pid"]}

        return run.stage(name, {}, work)

    execute(run, Graph([Piece(name, lambda name=name: own(name)) for name in "abc"]), Forked(run, 3))
    found = {run.stage(name, {}, forbidden).record["of"] for name in "abc"}
    assert found == {run.stage("common", {}, forbidden).record["pid"]}


def test_what_was_finished_before_is_said_by_who_asks_for_it(run, tmp_path, capfd):
    run.stage("a", {}, lambda folder: {"pid": 0})
    run.close()
    again = Run(tmp_path / "run")
    execute(again, Graph([stage(again, "a"), stage(again, "b", ("a",))]), Forked(again, 1))
    capfd.readouterr()
    for name in "ab":
        again.stage(name, {}, forbidden)
    again.close()
    said = capfd.readouterr().err
    assert "a was finished before and is reused" in said
    assert "b was finished" not in said


def test_what_ends_one_ends_all_and_is_raised_with_its_traceback(run):
    def fails():
        raise UserError("row 7 holds no text; mend it")

    slow = stage(run, "slow", seconds=60)
    began = time.monotonic()
    with pytest.raises(UserError, match="row 7") as found:
        execute(run, Graph([slow, Piece("fails", fails), stage(run, "late", ("fails",))]), Forked(run, 2))
    assert time.monotonic() - began < 20
    assert isinstance(found.value.__cause__, Elsewhere)
    assert "in fails" in str(found.value.__cause__)
    assert not list(run.stages.glob("slow-*")) + list(run.stages.glob("late-*"))


def test_an_error_that_cannot_be_sent_comes_as_text(run):
    class Local(Exception):  # noqa: N818 (no other process can find it)
        pass

    def fails():
        raise Local("odd")

    with pytest.raises(RuntimeError, match="Local: odd"):
        execute(run, Graph([Piece("fails", fails)]), Forked(run, 1))


def test_a_piece_that_is_killed_is_said_and_left_with_what_needs_it(run, caplog):
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    execute(run, Graph([Piece("dies", dies), stage(run, "other"), stage(run, "late", ("dies",))]), Forked(run, 1))
    assert "the process of dies was killed" in caplog.text
    assert "late: left for later" in caplog.text
    assert run.stage("other", {}, forbidden).record
    assert not list(run.stages.glob("late-*"))


def test_what_pieces_log_is_said_once(run, caplog):
    def warns():
        logging.getLogger("preflab.some").warning("%d rows are doubtful", 3)

    execute(run, Graph([Piece("one", warns), Piece("two", warns)]), Forked(run, 2))
    assert [record.getMessage() for record in caplog.records] == ["3 rows are doubtful"]


PARENT = """
import sys, time
from pathlib import Path
from preflab.disk.stages import Run
from preflab.execution.executing import execute
from preflab.execution.forked import Forked
from preflab.execution.graph import Graph, Piece

folder = Path(sys.argv[1])
run = Run(folder / "run")

def build(name):
    (folder / name).write_text("begun")
    time.sleep(60)

execute(run, Graph([Piece("a", lambda: build("a")), Piece("b", lambda: build("b"))]), Forked(run, 2))
"""


def test_no_piece_outlives_a_killed_parent_and_the_run_is_free_again(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    until = time.monotonic() + 60
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(1.0)
    Run(tmp_path / "run").close()  # refused as long as anybody holds it
