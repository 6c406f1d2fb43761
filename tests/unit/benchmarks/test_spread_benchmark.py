"""A graph replayed with seconds for its pieces: what waits, what is idle, what opening costs."""

import pytest

from benchmarks.spread import replayed
from preflab.execution.graph import Graph, Piece


def nothing():
    pass


def graph(**needs):
    return Graph([Piece(name, nothing, tuple(below)) for name, below in needs.items()])


SECONDS = {"a": 2.0, "b": 3.0, "c": 4.0, "d": 1.0}


def test_one_worker_takes_the_sum_and_is_never_idle():
    assert replayed(graph(a="", b="a", c="a", d="bc"), SECONDS, 1) == (10.0, 0.0)


def test_more_workers_take_the_longest_path_and_wait_for_the_rest():
    found = replayed(graph(a="", b="a", c="a", d="bc"), SECONDS, 2)
    assert found.wall == 2 + 4 + 1
    assert found.idle == pytest.approx(1 - 10 / 14)
    assert replayed(graph(a="", b="a", c="a", d="bc"), SECONDS, 64).wall == 7
    assert replayed(graph(a="", b="", c="", d=""), SECONDS, 2).wall == 6, "a and c, b and d beside them"


def test_each_worker_opens_once():
    whole = graph(a="", b="", c="a", d="c")
    assert replayed(whole, SECONDS, 1, opening=10.0).wall == 20
    assert replayed(whole, SECONDS, 2, opening=10.0).wall == 10 + 2 + 4 + 1, "c follows a where a is open"
    assert replayed(whole, SECONDS, 64, opening=10.0).wall == 10 + 2 + 4 + 1
