"""docs/python.md: its code runs, and what it says of errors and the run folder holds."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import preflab
from preflab.errors import UserError
from preflab.eval.pipeline import COMPARE, Session, compare, train

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
[CODE] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL = {
    **{"max_prompt_tokens": 8, "max_response_tokens": 4, "lora_rank": 4, "eval_prompts": 8, "eval_pairs": 4},
    **{"baseline_draws": 1, "oracle_samples": 0},
}
SECTION = {"max_steps": 2, "per_device_train_batch_size": 4}


@pytest.fixture
def data(tmp_path):
    draw = random.Random(0)
    rows = [
        {"prompt": f"word{draw.randrange(24)} word{i % 24}", "chosen": " word1 word2", "rejected": f" word{3 + i % 9}"}
        for i in range(80)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(data, model):
    return {"model": str(model), "dataset": str(data), "output": str(data.parent / "run"), **SMALL}


def test_the_code_runs(data, tiny_model_path, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    sections = dict.fromkeys(("sft", "reward", "pair", "single"), SECTION)
    made = Session.__init__

    def smaller(self, values=None, given=None, configs=None):
        here = {"workers": 1, "interpolate": [1.0]} if "way_back" in (configs or {}) else {}
        made(self, {**SMALL, **here, **(values or {})}, {**sections, **(given or {})}, configs)

    monkeypatch.setattr(Session, "__init__", smaller)
    exec(CODE.replace("MODEL", str(tiny_model_path)).replace("DATA", str(data)), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "Figure(" in line] == ["sft", "dpo", "kto"]
    # The comparison trained the same, and one stage serves both.
    [stage] = Path("runs/mine/stages").glob("kto-seed0-*")
    assert str(stage / "policy") in lines
    assert "Of 80 pairs, ranked as labelled" in lines[-1]


def test_every_function_of_the_table_is_there():
    assert set(re.findall(r"^\| `preflab\.(\w+)\(", PAGE, re.MULTILINE)) == set(preflab.CALLS)


def test_a_mistake_is_answered_before_torch_is_imported():
    code = """
import sys
from preflab.eval.pipeline import COMPARE, Session
from preflab.errors import UserError
for values, sections in (({"mode": 1}, {}), ({"seeds": [0, 0]}, {}), ({"snapshots": 1}, {}), ({}, {"dpo": {"bet": 1}})):
    try:
        Session(values, sections, COMPARE).method("dpo")
    except UserError:
        continue
    raise SystemExit(1)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_after_an_error_the_run_folder_is_free(data, tiny_model_path, monkeypatch):
    values = settings(data, tiny_model_path)
    session = Session(values, {"sft": SECTION, "pair": {**SECTION, "max_steps": 1}})

    def breaks(*given):
        raise UserError("broken")

    with monkeypatch.context() as broken:
        broken.setattr("preflab.eval.pipeline.training.trained", breaks)
        with pytest.raises(UserError, match="broken") as kept:
            train(session, "dpo")
    assert train(session, "dpo").stages[0].record["steps"] == 1
    assert kept.traceback, "its frames, which hold the experiment, are still there"


def test_a_function_takes_a_session_made_for_it(data, tiny_model_path):
    with pytest.raises(UserError, match="without CompareConfig"):
        compare(Session(settings(data, tiny_model_path)))
    assert set(COMPARE) == {"comparison", "course", "way_back", "tuning", "learning", "workers", "judge", "endpoint"}
