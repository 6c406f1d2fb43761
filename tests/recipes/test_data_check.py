"""`preflab data check`: quick, by the options of a run, with a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from preference_files import preference_rows, write_rows
from recipe_runner import RECIPES, run_warm

ROOT = RECIPES.parent


def preflab(*arguments: str | Path, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*([path] if path else []), str(ROOT)])}
    command = [sys.executable, "-m", "preflab", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_without_a_model_nothing_heavy_is_loaded(tmp_path):
    for name in ("torch", "transformers", "datasets"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    write_rows(tmp_path / "pairs.jsonl", preference_rows(40))
    done = preflab("data", "check", "pairs.jsonl", cwd=tmp_path, path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pairs.jsonl: 40 rows read, 40 usable\n")


def test_json_holds_what_the_page_says(options, tmp_path):
    data = options[3]
    done = run_warm("data_check.py", data, "--model", options[1], "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["files"][0]["read"] == 96
    assert {found["of"]: found["limit"] for found in report["lengths"]} == {"prompt": 85, "chosen": 42, "rejected": 42}
    assert set(report["doubts"][0]) == {"about", "message", "rows"}, "chosen and rejected say different words"
    assert report["examples"][0][1]["text"].endswith("⟦</s>⟧")


def test_a_runs_own_file_says_which_limits_and_what_is_not_read_is_said(options, tmp_path):
    done = run_warm("data_check.py", *options, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "  16  " in done.out
    assert "nothing here depends on dpo, eval_pairs" in done.err


def test_the_status_says_whether_a_run_would_begin(tmp_path):
    write_rows(tmp_path / "few.jsonl", preference_rows(2))
    done = run_warm("data_check.py", "few.jsonl", cwd=tmp_path)
    assert (done.status, "A run would not begin" in done.out) == (2, True)
    for arguments, said in (([], "name the preference data"), (["none.csv"], "does not exist")):
        done = run_warm("data_check.py", *arguments, cwd=tmp_path)
        assert (done.status, done.out, said in done.err) == (2, "", True), done.err
