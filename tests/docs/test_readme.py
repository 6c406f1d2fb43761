"""Every command of the README, in its order, on a tiny model and a CSV file, with what makes it short."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from preference_files import preference_rows
from recipe_runner import MY_LOSS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [
    line for block in re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
INLINE = [code for code in re.findall(r"`(preflab [a-z][^`]*)`", README) if "…" not in code and code.count(" ") > 1]
SMALL = """
threads: 1
max_prompt_tokens: 16
max_response_tokens: 8
eval_prompts: 8
eval_pairs: 8
lora_rank: 2
oracle_samples: 0
sft: &stage {max_steps: 2, per_device_train_batch_size: 4}
reward: *stage
pair: *stage
sampled: {max_steps: 2, per_device_train_batch_size: 4, rollout_prompts: 4}
"""
FEW = {
    "output": "runs/python",
    "max_prompt_tokens": 16,
    "max_response_tokens": 8,
    "eval_prompts": 8,
    "eval_pairs": 8,
    "max_steps": 2,
    "oracle_samples": 0,
}
TAKES_SETTINGS = ("compare", "train", "evaluate")
WRITTEN_SMALLER = {"--tune 8": "--tune 2", "owner/model": "MODEL"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model_path):
    """Where a person stands who has a model, a file of preferences, answers of two models, and a loss."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(tiny_model_path, folder / "MODEL")
    with (folder / "prefs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ("prompt", "chosen", "rejected"))
        table.writeheader()
        table.writerows(preference_rows(120))
    for shift, name in enumerate(("A", "B")):
        (folder / name).mkdir()
        rows = [{"prompt": f"word{i}", "response": f"word{i + shift}"} for i in range(4)]
        (folder / name / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_loss.py").write_text(MY_LOSS)
    (folder / "small.yaml").write_text(SMALL)
    return folder


def as_run(line, place):
    """Return a command's words, as a shell gives them, with what makes it short."""
    for text, smaller in WRITTEN_SMALLER.items():
        line = line.replace(text, smaller)
    words = shlex.split(line, comments=True)
    assert words[0] == "preflab"
    takes = words[1] in TAKES_SETTINGS
    named = [] if "--model" in words or not takes else ["--model", "MODEL", "--dataset", "prefs.csv"]
    found = {word: sorted(map(str, place.glob(word))) for word in words if "*" in word}
    words = [name for word in words for name in found.get(word, [word])]
    return [*words[1:], *named, *(["--config", "small.yaml"] if takes else [])]


def test_commands_are_found():
    assert len(SHELL) > 7
    assert len(INLINE) > 2


def test_every_command_does_what_it_says(place):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for line in [*SHELL, *INLINE]:
        command = [sys.executable, "-m", "preflab", *as_run(line, place)]
        done = subprocess.run(
            command, cwd=place, env=environment, input="q\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (place / "runs" / "mine" / "comparison.json").is_file()


def test_the_python_lines_work(place):
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    small = ", ".join(f"{name}={value!r}" for name, value in FEW.items())
    code = code.replace('dataset="prefs.csv"', f'dataset="prefs.csv", {small}')
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dpo" in done.stdout
