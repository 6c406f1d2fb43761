"""A graph of pieces, and what this process makes of it: needs first, nothing twice, errors as they are."""

import re

import pytest

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.executing import Here, execute
from preflab.execution.graph import Graph, Piece


def nothing():
    pass


def test_pieces_come_after_what_they_need_and_are_found_by_name():
    graph = Graph([Piece("a", nothing, (), ("sft",)), Piece("b", nothing, ("a",), ("dpo", "reference"))])
    assert [piece.name for piece in graph] == ["a", "b"]
    assert graph["b"].needs == ("a",)
    assert graph.stages == ["sft", "dpo", "reference"]
    with pytest.raises(ValueError, match="needs 'b'"):
        Graph([Piece("a", nothing, ("b",)), Piece("b", nothing)])
    with pytest.raises(ValueError, match="two pieces are called 'a'"):
        Graph([Piece("a", nothing), Piece("a", nothing)])


def test_the_nearest_needs_leave_out_what_others_need_themselves():
    graph = Graph([Piece("a", nothing), Piece("b", nothing, ("a",)), Piece("c", nothing, ("b",)), Piece("d", nothing)])
    assert graph.nearest(Piece("e", nothing, ("a", "c", "d"))) == ("c", "d")
    assert graph.nearest(Piece("e", nothing, ("a",))) == ("a",)


def test_this_process_builds_each_piece_once_in_order_and_tells_its_stages(tmp_path, capfd):
    run, built = Run(tmp_path / "run"), []

    def piece(name, *needs):
        def build():
            built.append(name)
            run.stage(name, {}, lambda folder: {})

        return Piece(name, build, needs, (name,))

    execute(run, Graph([piece("a"), piece("b", "a"), piece("c"), piece("d", "b", "c")]), Here())
    run.close()
    assert built == ["a", "b", "c", "d"]
    assert re.search(r"stage (\d+) of \1: d done", capfd.readouterr().err)


def test_what_ends_a_piece_here_is_raised_as_it_is_and_nothing_comes_after_it(tmp_path):
    def fails():
        raise UserError("row 7 holds no text")

    def never():
        raise AssertionError("begun after an error")

    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match="row 7") as found:
        execute(run, Graph([Piece("fails", fails), Piece("next", never)]), Here())
    run.close()
    assert found.value.__cause__ is None
