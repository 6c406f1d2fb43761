"""The live display, seen in a pseudo-terminal: one, no wider than that, and nothing of it left at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from staged import ROOT, STAGED
from terminal import Shown, Terminal

from preflab.progress.board import Board, Lane, View
from preflab.progress.live import Live, frame
from preflab.progress.task import Task

ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
DONE = [
    "dpo and ppo: reviews world",
    "stage 1 of 5: sft done in N s, loss 0.5",
    "WARNING preflab: a warning between stages",
]
AT_THE_END = [
    *DONE,
    "WARNING preflab: a warning while something is drawn",
    "stage 2 of 5: dpo-seed0 done in N s, loss 0.65",
    "stage 3 of 5: ppo-seed0 done in N s, loss 0.65",
    "the result",
]


def run(tmp_path: Path, *how: str, terminal: Terminal | None = None, **more) -> Shown:
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), **more.pop("environment", {})}
    command = [sys.executable, str(STAGED), *how]
    shown = (terminal or Terminal()).run(command, tmp_path, environment=environment, **more)
    return shown._replace(screen=[re.sub(r"done in \d+ s", "done in N s", line) for line in shown.screen])


class Frames:
    """Keeps every screen that is seen on the way."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
        self.seen.append(terminal.lines())

    def with_(self, *texts: str) -> list[str]:
        """Return the last screen on which all of some texts stand."""
        return next(lines for lines in reversed(self.seen) if all(text in "\n".join(lines) for text in texts))


def test_one_display_says_what_is_done_under_way_and_to_come_and_leaves_whole_lines(tmp_path):
    frames = Frames()
    shown = run(tmp_path, watch=frames, terminal=Terminal(120))
    assert (shown.status, shown.screen) == (0, AT_THE_END)
    alone = frames.with_("  sft  ", "of 10", "to come")
    assert "to come: reward, dpo-seed0, ppo-seed0 and eval-dpo-seed0" in alone[-1]
    both = frames.with_("dpo-seed0", "ppo-seed0", "sampling: token")
    assert [line.split()[0] for line in both[-3:-1]] == ["dpo-seed0", "ppo-seed0"]
    assert "1 of 5 stages" in both[-4]
    assert "loss 0.65  accuracy 0.61" in both[-3]
    assert "loss 0.2  reward 1.2" in both[-2]
    assert b"\x1b[?25l" in shown.written
    assert shown.written.rindex(b"\x1b[?25h") > shown.written.rindex(b"\x1b[?25l"), "the cursor is there again"


def test_it_is_drawn_a_few_times_a_second_at_most():
    class Counting(Live):
        def beat(self, board):
            self._drawn = board.clock()
            drawn.append(self._drawn)

    drawn, now = [], [0.0]
    live = Counting()
    board = Board(lambda: live, lambda: now[0])
    with board.progress("dpo-seed0", 1280) as task:
        for _ in range(1280):
            now[0] += 1 / 128
            task.advance()
    assert len(drawn) == 40


@pytest.mark.parametrize("columns", [100, 50, 20])
def test_no_line_of_it_is_wider_than_the_terminal(columns, tmp_path):
    written = ESCAPE.sub(b"", run(tmp_path, terminal=Terminal(columns)).written).decode()
    drawn = [line for line in re.split("[\r\n]+", written) if line.startswith(("  ", "━", "─"))]
    assert drawn
    assert max(map(len, drawn)) < columns


def test_it_goes_on_within_a_terminal_that_becomes_narrower(tmp_path):
    at = []

    def narrow(terminal, process):
        if not at and b"accuracy" in terminal.written:
            at.append(len(terminal.written))
            terminal.resize(40)

    shown = run(tmp_path, watch=narrow)
    after = ESCAPE.sub(b"", shown.written[at[0] :]).decode().split("\r\n")
    drawn = [line.rsplit("\r", 1)[-1] for line in after if "-seed0  " in line]
    assert drawn
    # One more frame may have been on its way.
    assert all(len(line) < 40 for line in drawn[2:]), drawn
    assert shown.screen[-1] == "the result"


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_takes_it_away_before_the_message(signalled, tmp_path):
    sent = []

    def interrupt(terminal, process):
        if not sent and b"accuracy" in terminal.written:
            sent.append(True)
            process.send_signal(signalled)

    shown = run(tmp_path, watch=interrupt)
    assert shown.status == 128 + signalled
    assert shown.screen[-1] == "interrupted; run the same command again to go on"
    assert shown.screen[: len(DONE)] == DONE
    assert not [line for line in shown.screen if "to come" in line or "━" in line]
    assert shown.written.rindex(b"\x1b[?25h") > shown.written.rindex(b"\x1b[?25l")


def test_an_error_takes_it_away_before_the_message(tmp_path):
    shown = run(tmp_path, "fails")
    assert shown.status == 1
    message = " ".join(shown.screen[len(DONE) :])
    assert message.startswith("error: KeyError: 'reward'")
    assert shown.screen[: len(DONE)] == DONE


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_dumb_terminal_gets_plain_lines(kind, tmp_path):
    shown = run(tmp_path, environment={"TERM": kind})
    assert b"\x1b" not in shown.written
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in shown.screen]
    assert lines == AT_THE_END


def test_no_colour_is_drawn_where_none_is_wanted(tmp_path):
    coloured = re.compile(rb"\x1b\[(3\d|1;3\d|9\d)")
    assert coloured.search(run(tmp_path).written)
    assert not coloured.search(run(tmp_path, environment={"NO_COLOR": "1"}).written)


def test_results_go_into_a_file_while_the_display_is_drawn(tmp_path):
    with (tmp_path / "result").open("wb") as file:
        shown = run(tmp_path, stdout=file.fileno())
    assert (tmp_path / "result").read_text() == "the result\n"
    assert shown.screen == AT_THE_END[:-1]


# ---- one frame -----------------------------------------------------------------------------------


def task(title: str, total: float | None, done: float, **figures: float) -> Task:
    made = Task(title, total, "step", 0, 0.0, lambda task: None)
    made.done, made.figures = done, figures
    return made


def drawn(width: int, height: int, lanes: int = 1, coming: int = 0, title: str = "dpo-seed") -> list[str]:
    named = [f"{title}{number}" for number in range(lanes)]
    view = View(
        now=60.0,
        began=0.0,
        done=3,
        whole=3 + lanes + coming,
        lanes=[Lane(name, 0.0, [task(name, 64, 16, loss=0.5, accuracy=0.75)], (name,)) for name in named],
        coming=[f"eval-{number}" for number in range(coming)],
        left=200.0,
    )
    return [str(line) for line in frame(view, width, height).renderables]


def test_what_there_is_no_room_for_is_left_out_from_the_end():
    assert drawn(100, 20)[1].split("  ")[1:] == [
        *("dpo-seed0", "━" * 6 + "─" * 18, "step 16 of 64", "3 min left", "loss 0.5", "accuracy 0.75")
    ]
    assert drawn(70, 20)[1].split("  ")[3:] == ["step 16 of 64", "3 min left", "loss 0.5"]
    assert drawn(40, 20)[1].split("  ")[3:] == ["step 16 of 64"]
    assert drawn(20, 20)[1] == "  dpo-see…  step 16…"


def test_what_counts_nothing_has_its_time_and_what_it_is_at():
    at = [task("ppo-seed0", None, 0), task("ppo-seed0", 8, 2, loss=0.5), task("sampling", 512, 128)]
    at[2].began = 10.0
    lanes = [Lane("loading", 0.0), Lane("eval-sft", 0.0, [task("opening", None, 0)]), Lane("ppo-seed0", 0.0, at)]
    lines = [str(line) for line in frame(View(60.0, 0.0, 0, 0, lanes, [], None), 100, 20).renderables]
    assert lines[:2] == ["  loading    for 60 s", "  eval-sft   opening: for 60 s"]
    assert lines[2].split("  ")[3:] == ["step 2 of 8", "3 min left", "loss 0.5", "sampling: step 128 of 512"]


def test_more_lanes_than_rows_are_counted():
    lines = drawn(80, 6, lanes=9, coming=2)
    assert len(lines) == 6
    assert lines[-2] == "  and 6 more"
    assert lines[-1] == "  to come: eval-0 and eval-1"


def test_wide_characters_count_twice():
    from rich.cells import cell_len

    assert max(map(cell_len, drawn(50, 20, title="比較" * 30))) <= 50
