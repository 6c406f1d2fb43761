"""Attempts at one stage by processes that know nothing of each other: the first wins, later ones go on from earlier."""

import errno
import fcntl
import logging

import pytest

from preflab.disk.attempts import tidy
from preflab.disk.guest import GuestRun
from preflab.disk.seals import damage
from preflab.disk.stages import Run
from preflab.errors import UserError


@pytest.fixture
def host(tmp_path):
    run = Run(tmp_path / "run")
    yield run
    run.close()


def forbidden(folder):
    raise AssertionError("built a second time")


def test_a_guest_builds_beside_the_host_that_holds_the_folder(host):
    made = GuestRun(host.folder).stage("dpo", {"beta": 1}, lambda folder: {"by": "guest"})
    assert not made.reused
    assert host.stage("dpo", {"beta": 1}, forbidden).record == {"by": "guest"}
    assert damage(made.folder) is None


def test_of_two_attempts_the_first_to_end_wins_and_both_report_what_lies_there(host):
    one, other = GuestRun(host.folder), GuestRun(host.folder)
    assert one.attempt != other.attempt

    def slow(folder):
        (folder / "weights").write_text("of one")
        first = other.stage("dpo", {}, quick)
        assert not first.reused
        return {"by": "one"}

    def quick(folder):
        (folder / "weights").write_text("of the other")
        return {"by": "the other"}

    stage = one.stage("dpo", {}, slow)
    assert stage.record == {"by": "the other"}
    assert (stage.folder / "weights").read_text() == "of the other"
    assert damage(stage.folder) is None
    assert not list(host.stages.glob(".*"))


class KilledError(Exception):
    """As by a signal."""


def test_each_attempt_goes_on_from_the_furthest_before_it_whoever_made_it(host):
    def until(step):
        def build(folder):
            found = sorted(int(path.name) for path in folder.iterdir())
            for number in range(len(found), step):
                (folder / str(number)).write_text("")
            if step < 4:
                raise KilledError
            return {"found": found}

        return build

    for step in (1, 3, 2):  # the last went nowhere
        with pytest.raises(KilledError):
            GuestRun(host.folder).stage("ppo", {}, until(step))
    assert host.stage("ppo", {}, until(4)).record == {"found": [0, 1, 2]}
    assert len(list(host.stages.glob(".ppo-*"))) == 3
    (host.stages / ".sft-0123.partial.a-1-b").mkdir()
    tidy(host.stages)
    assert [path.name for path in host.stages.glob(".*")] == [".sft-0123.partial.a-1-b"], (
        "that of nothing finished stays"
    )


def test_storage_without_locks_is_said_and_written_to(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with caplog.at_level(logging.WARNING):
        run = Run(tmp_path / "run")
    assert "its storage has no locks" in caplog.text
    assert run.stage("a", {}, lambda folder: {"x": 1}).record == {"x": 1}
    run.close()


def test_a_folder_in_use_is_refused_as_ever(host):
    with pytest.raises(UserError, match="in use by another process"):
        Run(host.folder)
