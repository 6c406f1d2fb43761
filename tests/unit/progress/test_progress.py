"""Progress: what a file gets, when, and what nested work and stages look like; by a clock of the tests' own."""

from __future__ import annotations

import io
import sys

import pytest

from preflab.progress.bars import Bars
from preflab.progress.board import EVERY, FIRST, Board, Lines
from preflab.progress.default import Heart, tracked
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


def test_a_long_task_speaks_after_ten_seconds_and_then_every_thirty(board, clock, lines):
    with board.progress("dpo-seed0", 100, "step") as task:
        pass_time(board, clock, int(FIRST) - 1)
        assert lines == []
        task.advance(10)
        pass_time(board, clock, 1)
        assert lines == ["[10] dpo-seed0: step 10 of 100, about 90 s left"]
        pass_time(board, clock, int(2 * EVERY))
    assert [line.split("]")[0] for line in lines] == ["[10", "[40", "[70"]
    assert board.beat() is False


def test_a_step_that_never_ends_is_seen_to_last(board, clock, lines):
    with board.progress("ppo-seed0", 8), board.progress("sampling", 512, "token") as inner:
        inner.advance(128)
        pass_time(board, clock, 10)
    assert lines == ["[10] ppo-seed0: step 0 of 8 · sampling: token 128 of 512, about 30 s left"]


def test_what_is_counted_without_an_end_and_what_is_not_counted_at_all(board, clock, lines):
    with board.progress("reading pairs.jsonl", None, "row") as task:
        task.advance(1200)
        pass_time(board, clock, 10)
    with board.progress("loading model"):
        pass_time(board, clock, 30)
    assert lines == ["[10] reading pairs.jsonl: 1,200 rows so far", "[40] loading model: for 30 s"]


def test_figures_stand_beside_the_steps(board, clock, lines):
    with board.progress("dpo", 4, "step", done=1) as task:
        task.note(loss=0.69314)
        task.reach(2)
        pass_time(board, clock, 10)
    assert lines == ["[10] dpo: step 2 of 4, about 20 s left, loss 0.693"]


def test_stages_are_numbered_and_timed_by_their_like(board, clock, lines):
    board.expect(["sft", "dpo-seed0", "dpo-seed1", "dpo-seed2"])
    board.reused("sft")
    for seed in range(2):
        with board.stage(f"dpo-seed{seed}"):
            board.reused("reference")
            with board.stage("reference"), board.progress("reference log-probabilities", 2, "batch"):
                pass_time(board, clock, 200 if seed else 8)
    assert lines[:4] == [
        "[0] stage 1 of 4: sft was finished before and is reused",
        "[0] stage 2 of 4: dpo-seed0",
        "[8] stage 2 of 4: dpo-seed0 done in 8 s",
        "[8] stage 3 of 4: dpo-seed1 · about 8 s · whole run about 16 s left",
    ]
    assert lines[4] == ("[18] stage 3 of 4: dpo-seed1 · reference · reference log-probabilities: batch 0 of 2")
    assert lines[-1] == "[208] stage 3 of 4: dpo-seed1 done in 3 min"


def test_what_is_not_known_is_not_guessed(board, clock, lines):
    board.expect(["eval-start", "eval-dpo-seed0", "ppo-seed0"])
    with board.stage("eval-start"):
        clock.now += 4
    with board.stage("eval-dpo-seed0"):
        clock.now += 4
    with board.stage("ppo-seed0"):
        pass
    assert lines[2] == "[4] stage 2 of 3: eval-dpo-seed0 · about 4 s · whole run at least 4 s left"
    assert lines[4] == "[8] stage 3 of 3: ppo-seed0"


def test_more_stages_than_were_expected_are_counted(board, lines):
    board.expect(["sft"])
    for name in ("sft", "dpo-seed0"):
        with board.stage(name):
            pass
    assert lines[2] == "[0] stage 2 of 2: dpo-seed0"


def test_an_exception_leaves_nothing_open_and_says_nothing_done(board, clock, lines):
    def interrupted():
        with board.stage("dpo-seed0"):
            board.progress("dpo-seed0", 5).__enter__()  # as a trainer's callback does, which no end is told
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert (board.tasks, lines) == ([], ["[0] stage 1: dpo-seed0"])
    with board.stage("dpo-seed1"):
        pass
    assert lines[-1] == "[0] stage 2: dpo-seed1 done in 0 s"


def test_titles_and_lines_are_harmless(board, clock, lines):
    with board.progress("\x1b[2Jreading\n" + "x" * 500):
        pass_time(board, clock, 10)
    board.say("a\x1b]0;title\x07b")
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


def test_a_terminal_gets_bars_and_whole_lines(monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    bars = Bars()
    board = Board(lambda: bars, clock)
    with board.stage("dpo-seed0"), board.progress("dpo-seed0", 10, "step") as task:
        clock.now += 1
        task.reach(4)
        board.beat()
        task.note(loss=0.5)
        board.beat()
    shown = screen.getvalue()
    assert "stage 1: dpo-seed0\n" in shown
    assert "4/10" in shown
    assert "stage 1: dpo-seed0: 00:01" in shown
    assert "loss=0.5" in shown
    assert "done in 1 s\n" in shown
    assert not bars._bars


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5900, "98 min"), (6060, "1 h 41 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said
