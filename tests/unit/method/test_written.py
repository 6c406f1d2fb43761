"""Classes of the program that runs: what changes the key of one, and what does not; in a kernel's own words."""

from __future__ import annotations

import linecache
import subprocess
import sys
from types import ModuleType

import pytest

from preflab.errors import UserError
from preflab.method import registry
from preflab.method.plugins import brought_files
from preflab.method.written import PROGRAM, is_of_the_program, parts_of, place_of_class

CELL = '''
import math
from dataclasses import dataclass

import torch
from preflab import Pairwise, log_sigmoid, option

SHARPNESS = 2.0


def sharpened(x):
    return SHARPNESS * x


@dataclass(frozen=True)
class MyConfig:
    """Fields."""

    beta: float = option(0.1, "a factor", minimum=0.0)


class MyLoss(Pairwise):
    """A loss."""

    Config = MyConfig

    @staticmethod
    def softly(x):
        return log_sigmoid(x)

    @torch.no_grad()
    def untouched(self):
        return math.pi

    def pair_loss(self, pair):
        return -self.softly(self.config.beta * sharpened(pair.margin))
'''


@pytest.fixture
def cell(monkeypatch):
    """Run cells as a notebook's kernel does: in one module without a file, each under a name that linecache knows."""
    program, count = ModuleType(PROGRAM), 0
    monkeypatch.setitem(sys.modules, PROGRAM, program)

    def run(source):
        nonlocal count
        count += 1
        name = f"<cell {count}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), vars(program))
        return program

    return run


def hashed(program):
    return registry.source_hash(registry.load(place_of_class(program.MyLoss)))


def test_a_class_is_loaded_by_its_place(cell):
    program = cell(CELL)
    place = place_of_class(program.MyLoss)
    assert place == "__main__:MyLoss"
    assert is_of_the_program(place)
    assert not is_of_the_program("dpo")
    assert registry.load(place) is program.MyLoss


def test_the_same_source_in_another_cell_is_the_same_class(cell):
    first = hashed(cell(CELL))
    assert hashed(cell(CELL)) == first
    assert hashed(cell("print\n\n" + CELL + "\nplot = [1, 2]\n")) == first, "what else stands around it does not count"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-self.softly", "-2 * self.softly"),
        ("return log_sigmoid(x)", "return log_sigmoid(2 * x)"),
        ("return math.pi", "return math.e"),
        ("SHARPNESS * x", "x / SHARPNESS"),
        ("SHARPNESS = 2.0", "SHARPNESS = 3.0"),
        ("minimum=0.0", "minimum=1e-3"),
        ('"""A loss."""\n', '"""A loss."""\n\n    metrics = {**Pairwise.metrics, "x": "y"}\n'),
        ("MyLoss(Pairwise)", "MyLoss(Pairwise, object)"),
    ],
)
def test_what_it_is_made_of_decides_its_key(cell, old, new):
    assert old in CELL
    first = hashed(cell(CELL))
    assert hashed(cell(CELL.replace(old, new))) != first


def test_a_helper_that_is_changed_in_another_cell_is_noticed(cell):
    first = hashed(cell(CELL))
    assert hashed(cell("def sharpened(x):\n    return x * x\n")) != first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("SHARPNESS = 2.0", "SHARPNESS = torch.ones(3)"), "method MyLoss reads SHARPNESS, tensor([1., 1., 1.])"),
        (("SHARPNESS = 2.0", "SHARPNESS = object()"), "make it a field of Config"),
    ],
)
def test_a_value_that_no_key_could_hold_is_refused(cell, change, said):
    program = cell(CELL.replace(*change))
    with pytest.raises(UserError) as raised:
        hashed(program)
    assert said in str(raised.value)


def test_a_source_that_cannot_be_read_is_refused(cell):
    program = cell(CELL)
    exec(CELL, vars(program))  # as code that nobody can look up
    with pytest.raises(UserError, match=r"the source of MyLoss\.\w+ cannot be read; write it into a file"):
        hashed(program)


def test_a_class_that_nobody_could_find_again_is_refused(cell):
    program = cell(CELL)
    old = program.MyLoss
    cell(CELL)
    with pytest.raises(UserError, match="is not what __main__ calls so by now"):
        place_of_class(old)

    class Inner:
        pass

    with pytest.raises(UserError, match="inside something else"):
        place_of_class(Inner)


def test_an_installed_class_goes_by_its_module_and_its_file():
    from preflab.algorithms.dpo import DPO

    assert place_of_class(DPO) == "preflab.algorithms.dpo:DPO"
    assert registry.source_hash(DPO) == registry.source_hash(registry.load("dpo"))


def test_its_parts_are_named_and_its_cell_answers_for_it(cell):
    program = cell(CELL)
    parts = {part.split("\n")[0] for part in parts_of(program.MyLoss)}
    assert {
        "MyLoss.pair_loss",
        "MyLoss.softly",
        "MyLoss.untouched",
        "sharpened",
        "SHARPNESS",
        "class MyConfig",
    } <= parts
    assert not [part for part in parts if "log_sigmoid" in part or "__repr__" in part]
    assert "<cell 1>" in brought_files(program.MyLoss)


def test_a_scripts_class_has_one_key_whatever_the_script_does_besides(tmp_path):
    script = tmp_path / "mine.py"
    ending = """
from preflab.method import registry
from preflab.method.written import place_of_class
print(registry.source_hash(registry.load(place_of_class(MyLoss))))
"""
    found = []
    for more in ("", "seeds = 3\n"):
        script.write_text(CELL + more + ending)
        done = subprocess.run([sys.executable, str(script)], check=True, timeout=120, capture_output=True, text=True)
        found.append(done.stdout)
    assert found[0] == found[1] != ""
