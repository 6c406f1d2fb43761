"""In a notebook: one line a cell, written over, and no more often than time goes by."""

from __future__ import annotations

import pytest

from preflab.progress.board import Board
from preflab.progress.notebook import LONGEST, Cell, in_notebook


class Cells:
    """Notes what is shown in which cell, and what is written over it."""

    def __init__(self):
        self.now, self.at, self.shown, self.written = 0.0, 1, [], 0

    def __call__(self):
        def show(line):
            self.shown.append(line)
            place = len(self.shown) - 1

            def update(other):
                self.shown[place] = other
                self.written += 1

            return update

        return self.at, show


@pytest.fixture
def cells():
    return Cells()


@pytest.fixture
def board(cells):
    cell = Cell(cells)
    return Board(lambda: cell, lambda: cells.now)


def test_thousands_of_steps_are_one_line(board, cells):
    board.say("dpo: into runs/x")
    with board.stage("dpo-seed0"), board.progress("steps", 10_000, "step") as task:
        for step in range(10_000):
            task.advance()
            if step % 1000 == 999:
                cells.now += 1
                board.beat()
    assert len(cells.shown) == 1, "one output of the cell"
    assert cells.written <= 10 + 3, "a beat each, and the stage's two headlines"
    assert "dpo-seed0 done" in cells.shown[0]


def test_a_beat_says_how_far_everything_is(board, cells):
    with board.progress("answers", 4, "part") as task:
        task.advance()
        cells.now += 3
        board.beat()
        assert cells.shown == ["answers: part 1 of 4, about 9 s left"]
        board.beat()
        assert cells.written == 0, "the same line is not written again"


def test_every_cell_has_a_line_of_its_own(board, cells):
    board.say("first")
    cells.at = 2
    board.say("second")
    assert cells.shown == ["first", "second"]


def test_a_line_stays_one(board, cells):
    board.say("a" * 1000 + "\n\x1b[2J")
    assert len(cells.shown[0]) <= LONGEST
    assert "\n" not in cells.shown[0]
    assert "\x1b" not in cells.shown[0]


def test_this_is_no_notebook():
    assert not in_notebook()


def test_another_piece_of_work_counts_its_stages_from_one(board, cells):
    board.expect(["a", "b"])
    for name in ("a", "b"):
        with board.stage(name):
            pass
    board.afresh()
    board.expect(["c"])
    with board.stage("c"):
        pass
    assert cells.shown[-1].startswith("stage 1 of 1: c done")
