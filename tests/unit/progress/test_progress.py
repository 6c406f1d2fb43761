"""Progress: what a file gets, when, and what nested work and stages look like; by a clock of the tests' own."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys

import pytest
from staged import ROOT, STAGED

from preflab.errors import speaking
from preflab.progress.board import Board, Made
from preflab.progress.default import Heart, _display, tracked
from preflab.progress.lines import EVERY, TOLD_EVERY, Lines, Nothing, Told
from preflab.progress.words import duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def board(clock, lines):
    display = Lines(lines.append, clock, lambda: f"[{clock.now:.0f}]")
    return Board(lambda: display, clock)


def pass_time(board, clock, seconds):
    for _ in range(seconds):
        clock.now += 1
        board.beat()


def test_a_long_task_speaks_every_minute(board, clock, lines):
    with board.progress("dpo-seed0", 100, "step") as task:
        pass_time(board, clock, int(EVERY) - 1)
        assert lines == []
        task.advance(10)
        pass_time(board, clock, 1)
        assert lines == ["[60] dpo-seed0: step 10 of 100, about 9 min left"]
        pass_time(board, clock, int(2 * EVERY))
    assert [line.split("]")[0] for line in lines] == ["[60", "[120", "[180"]
    assert board.beat() is False


def test_a_step_that_never_ends_is_seen_to_last(board, clock, lines):
    with board.progress("ppo-seed0", 8), board.progress("sampling", 512, "token") as inner:
        inner.advance(128)
        pass_time(board, clock, 60)
    assert lines == ["[60] ppo-seed0: step 0 of 8 · sampling: token 128 of 512, about 3 min left"]


def test_what_is_counted_without_an_end_and_what_is_not_counted_at_all(board, clock, lines):
    with board.progress("reading pairs.jsonl", None, "row") as task:
        task.advance(1200)
        pass_time(board, clock, 60)
    with board.progress("loading model"):
        pass_time(board, clock, 60)
    assert lines == ["[60] reading pairs.jsonl: 1,200 rows so far", "[120] loading model: for 60 s"]


def test_figures_stand_beside_the_steps(board, clock, lines):
    with board.progress("dpo", 4, "step", done=1) as task:
        task.note({"loss": 0.69314})
        task.reach(2)
        pass_time(board, clock, 60)
    assert lines == ["[60] dpo: step 2 of 4, about 2 min left, loss 0.693"]


def test_a_stage_has_one_line_at_its_end_with_its_time_and_last_figures(board, clock, lines):
    board.expect(["sft", "dpo-seed0", "dpo-seed1", "dpo-seed2"])
    board.reused("sft")
    for seed in range(2):
        with board.stage(f"dpo-seed{seed}"):
            board.reused("reference")
            with board.stage("reference"), board.progress("reference log-probabilities", 2, "batch"):
                pass_time(board, clock, 20)
            with board.progress(f"dpo-seed{seed}", 8, "step") as task:
                pass_time(board, clock, 20)
                task.note({"loss": 0.7 - seed / 10})
                task.advance()
                pass_time(board, clock, 20)
    assert lines == [
        "[0] stage 1 of 4: sft was finished before and is reused",
        "[60] 1 of 4 stages done | dpo-seed0: step 1 of 8, about 5 min left, loss 0.7",
        "[60] stage 2 of 4: dpo-seed0 done in 60 s, loss 0.7",
        "[120] 2 of 4 stages done | dpo-seed1: step 1 of 8, about 5 min left, loss 0.6 | whole run: about 6 min left",
        "[120] stage 3 of 4: dpo-seed1 done in 60 s, loss 0.6",
    ]


def test_what_other_processes_are_at_is_told_in_one_line(board, clock, lines):
    board.expect(["dpo-seed0", "ppo-seed0", "eval-dpo-seed0"])
    board.begun("dpo-seed0", ("dpo-seed0",))
    assert board.view().lanes == [], "nobody else is at work"
    with board.at_work(2):
        for name in ("dpo-seed0", "ppo-seed0"):
            board.begun(name, (name,))
        with Board(Nothing, clock).progress("dpo-seed0", 64, "step") as task:
            task.note({"loss": 0.5})
            board.heard("dpo-seed0", pickle.loads(pickle.dumps([task])))
        assert board.view().coming == ["eval-dpo-seed0"]
        pass_time(board, clock, 60)
        board.ended("dpo-seed0")
        board.elsewhere(Made("dpo-seed0", 60.0, {"loss": 0.5}))
        assert [lane.title for lane in board.view().lanes] == ["ppo-seed0"]
    assert lines == [
        "[60] 0 of 3 stages done | dpo-seed0: step 0 of 64, loss 0.5 | ppo-seed0: for 60 s",
        "[60] stage 1 of 3: dpo-seed0 done in 60 s, loss 0.5",
    ]
    assert board.beat() is False, "what others were at ends with them"


def test_another_process_is_told_now_and_then(clock):
    told = []
    display = Told(lambda tasks: told.append([(task.title, task.done) for task in tasks]), clock)
    board = Board(lambda: display, clock)
    with board.stage("dpo-seed0"), board.progress("dpo-seed0", 64, "step") as task:
        for _ in range(8):
            clock.now += TOLD_EVERY / 2
            task.advance()
    assert told == [[("dpo-seed0", 0), ("dpo-seed0", done)] for done in (2, 4, 6, 8)]


def test_time_left_is_that_of_the_like_and_not_guessed_for_the_rest(board, clock):
    board.expect(["eval-start", "eval-dpo-seed0", "eval-ppo-seed0", "ppo-seed0"])
    with board.stage("eval-start"):
        assert board.view().left is None
        clock.now += 4
    with board.stage("eval-dpo-seed0"):
        clock.now += 1
        assert board.view().left == pytest.approx(3 + 2 * 4), "one that is not known is taken for an average one"
        clock.now += 3
    with board.stage("ppo-seed0"):
        assert board.view().left is None


def test_more_stages_than_were_expected_are_counted(board, lines):
    board.expect(["sft"])
    for name in ("sft", "dpo-seed0"):
        with board.stage(name):
            pass
    assert lines == ["[0] stage 1 of 1: sft done in 0 s", "[0] stage 2 of 2: dpo-seed0 done in 0 s"]


def test_an_exception_leaves_nothing_open_and_says_nothing_done(board, clock, lines):
    def interrupted():
        with board.stage("dpo-seed0"):
            board.progress("dpo-seed0", 5).__enter__()  # as a trainer's callback does, which no end is told
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert (board.tasks, lines) == ([], [])
    with board.stage("dpo-seed1"):
        pass
    assert lines == ["[0] stage 1: dpo-seed1 done in 0 s"]
    board.progress("left open", 5).__enter__()
    board.leave()
    assert board.beat() is False


def test_titles_lines_and_names_of_figures_are_harmless(board, clock, lines):
    with board.progress("\x1b[2Jreading\n" + "x" * 500) as task:
        task.note({"\x1b[2Jloss\n" * 100: 1.0})
        pass_time(board, clock, 60)
    board.say("a\x1b]0;title\x07b")
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 200 for line in lines), lines


def test_tracked_counts_what_has_been_dealt_with(monkeypatch, board):
    monkeypatch.setattr("preflab.progress.default.progress", board.progress)
    seen = []
    for item in tracked("abc", "letters", "letter"):
        seen.append((item, board.tasks[0].done, board.tasks[0].total))
    assert seen == [("a", 0, 3), ("b", 1, 3), ("c", 2, 3)]
    assert board.tasks == []


def test_one_thread_keeps_a_board_alive_and_ends_with_the_work(monkeypatch, clock):
    beats, threads = [], []

    class Thread:
        def __init__(self, target, args, name, daemon):
            self.run = lambda: target(*args)

        def start(self):
            threads.append(self)

    monkeypatch.setattr("preflab.progress.default.threading.Thread", Thread)
    monkeypatch.setattr("preflab.progress.default.time.sleep", lambda seconds: None)

    class Working:
        def beat(self):
            beats.append(len(beats))
            return len(beats) < 3

    heart, working = Heart(), Working()
    heart.start(working)
    heart.start(working)
    assert len(threads) == 1
    threads[0].run()
    assert beats == [0, 1, 2]
    heart.start(working)
    assert len(threads) == 2, "work that begins later is kept alive too"


def test_a_file_gets_a_line_for_each_stage_and_nothing_else(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        command = [sys.executable, str(STAGED)]
        subprocess.run(command, stderr=file, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT)}, check=True)
    said = (tmp_path / "log").read_bytes().decode()
    assert not {"\r", "\x1b"} & {*said}
    stamped, *others = ([line for line in said.splitlines() if line[:1].isdigit() == own] for own in (True, False))
    assert [line.partition(" ")[2].partition(":")[0] for line in stamped] == [
        "dpo and ppo",
        "stage 1 of 5",
        "stage 2 of 5",
        "stage 3 of 5",
    ]
    assert others == [
        ["WARNING preflab: a warning between stages", "WARNING preflab: a warning while something is drawn"]
    ]


def test_one_process_of_several_speaks_and_that_one_not_where_nobody_wants_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(_display(), Lines)
    monkeypatch.setattr(speaking, "_quiet", [True])
    assert isinstance(_display(), Nothing)
    monkeypatch.setattr(speaking, "_quiet", [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert isinstance(_display(), Nothing)
    monkeypatch.setenv("RANK", "0")
    assert isinstance(_display(), Lines)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5900, "98 min"), (6060, "1 h 41 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said
