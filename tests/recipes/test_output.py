"""What a whole run says: in a terminal, in a file, quietly, as JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from recipe_runner import LIMIT, RECIPES, read, run_warm
from terminal import Terminal


def test_json_is_what_comparison_json_holds_and_alone_on_stdout(copy, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", copy, "--json", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert json.loads(answer.out) == read(copy / "comparison.json")
    assert "is reused" in answer.err


def test_quiet_says_warnings_and_the_result(copy, options, tmp_path):
    answer = run_warm("compare.py", *options, "--output", copy, "--quiet", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert [line for line in answer.err.splitlines() if not line.startswith("WARNING")] == []
    assert "written to" in answer.out


def test_json_of_one_method_names_weights_and_figures(copy, options, tmp_path):
    answer = run_warm("train.py", "dpo", *options, "--output", copy, "--json", "--quiet", cwd=tmp_path)
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["result"] == read(tmp_path / found["record"])
    [weights] = found["weights"]
    assert (tmp_path / weights / "adapter_model.safetensors").is_file()
    alone = run_warm("train.py", "dpo", *options, "--output", copy, "--evaluate", "false", "--json", cwd=tmp_path)
    assert json.loads(alone.out) == {"weights": [weights], "record": None, "result": None}


def test_json_of_an_evaluation_is_what_evaluation_json_holds(copy, options, tmp_path):
    asked = ["--models", f"mine={copy / 'stages'}", "--report", "false", "--json"]
    answer = run_warm("evaluate.py", *asked, *options, "--output", tmp_path / "found", cwd=tmp_path)
    assert answer.status == 2, "a folder of stages is no run"
    assert set(json.loads(answer.out)) == {"error", "status"}
    asked[1] = f"mine={next((copy / 'stages').glob('dpo-seed0-*'))}"
    answer = run_warm("evaluate.py", *asked, *options, "--output", tmp_path / "found", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert json.loads(answer.out) == read(tmp_path / "found" / "evaluation.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--bogus", "1"], "unknown option '--bogus'"), (["--plan"], "--plan has none"), (["--seeds", "x"], "seeds")],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_json_too(arguments, said, options, tmp_path):
    answer = run_warm("compare.py", *options, *arguments, "--json", "--output", "run", cwd=tmp_path)
    found = json.loads(answer.out)
    assert (answer.status, found["status"]) == (2, 2)
    assert said in found["error"]


def test_a_file_gets_no_bars_of_anybody(options, tmp_path):
    """A process of its own: whether libraries draw is settled before they are imported."""
    more = ["--max-steps", "2", "--evaluate", "false", "--output", "run"]
    command = [sys.executable, str(RECIPES / "dpo.py"), *map(str, options), *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=LIMIT, check=False)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert not {"\r", "\x1b"} & {*said}
    assert not re.search(r"\d+%\|", said)
    lines = [line for line in said.splitlines() if not line.startswith("WARNING")]
    stamped = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines]
    assert all(len(line) - len(short) == 9 for line, short in zip(lines, stamped, strict=True)), said
    assert all(re.match(r"stage \d+ of \d+: .* done in", line) for line in stamped[1:]), said
    assert any("dpo-seed0 done in" in line and "loss" in line and "accuracy" in line for line in stamped)


@pytest.mark.slow
def test_a_terminal_shows_workers_side_by_side_with_their_figures(options, tmp_path):
    seen = []

    def watch(terminal, process):
        seen.append(terminal.lines())

    more = ["--interpolate", "1", "--report", "false", "--baseline-draws", "2", "--workers", "2", "--output", "run"]
    more += ["--dpo.max-steps", "40", "--reward.max-steps", "40"]
    command = [sys.executable, str(RECIPES / "compare.py"), *map(str, options), *more]
    shown = Terminal(110).run(command, tmp_path, environment={**os.environ}, watch=watch)
    assert shown.status == 0, shown.screen
    lanes = [[line for line in lines if re.match(r"  [\w-]+ +(.* of \d|for \d)", line)] for lines in seen]
    assert max(map(len, lanes)) == 2, "as many at a time as there are workers"
    assert any("loss" in line and "accuracy" in line for lines in lanes for line in lines), "they tell what they are at"
    assert not [line for line in shown.screen if "to come" in line]
