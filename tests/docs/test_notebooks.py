"""The notebooks of docs/notebooks/: executed, small, of nobody's machine; and they run, to the same verdicts."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 200 * 1024  # characters of an output

spec = importlib.util.spec_from_file_location("make_notebooks", ROOT / "docs" / "make_notebooks.py")
assert spec is not None
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["a_loss_of_ones_own", "five_lines_to_a_verdict"]
    assert all(path.name in (ROOT / "docs" / "python.md").read_text(encoding="utf-8") for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_executed_and_small_and_of_nobodys_machine(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 1, "only one that defines something shows nothing"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    texts = made.texts(notebook)
    assert max(map(len, texts)) <= LARGEST
    assert not [text for text in texts if made.MACHINE.search(text) or sys.prefix in text or str(Path.home()) in text]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_progress_is_one_line_of_a_cell(path):
    for cell in code_of(read(path)):
        shown = [output for output in cell.outputs if output.output_type == "display_data"]
        assert len(shown) <= 1, "a line that is written over"
        said = "".join(
            output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stderr"
        )
        assert said.count("\n") <= 5, said


def test_a_path_of_a_machine_is_seen():
    for path in ("/root/.cache/x", "/home/me/run", "/tmp/preflab-x", "C:\\Users"):
        assert made.MACHINE.search(f"written to {path}")
    assert not made.MACHINE.search("runs/five-lines/report/report.html, π/π_ref, https://x.org/a")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    before, after = read(path), made.run(path)
    for old, new in zip(code_of(before), code_of(after), strict=True):
        kinds = [[output.output_type for output in cell.outputs] for cell in (old, new)]
        assert kinds[0] == kinds[1], new.source
    headlines = [re.findall(r"Of these trained models[^<\n]*", "\n".join(made.texts(one))) for one in (before, after)]
    assert headlines[1]
    assert len(headlines[0]) == len(headlines[1])
