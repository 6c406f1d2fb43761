"""docs/judges.md, "A new judge", followed to the letter: its one file, beside a copy of `eval/`."""

from __future__ import annotations

import json
import re

import pytest
from new_file import ROOT, add_to_copy, run_in_copy

PAGE = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")
(COMMAND,) = re.findall(r"^python (recipes/compare\.py .*--judge shorter.*)$", PAGE, re.MULTILINE)
OPENED = """
from preflab.eval.judges import open_named_judge
from preflab.eval.judges.shorter import ShorterConfig
judge = open_named_judge("shorter", {"shorter": ShorterConfig(shorter_least=2)})
print(judge.prefer(["p"] * 3, ["a b c", "a b", "a b"], ["a b", "a", "c d"]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new_judge")
    add_to_copy("judges.md", folder)
    return folder


def test_it_judges_as_the_page_says(folder):
    assert json.loads(run_in_copy(folder, "-c", OPENED)) == [0.0, 1.0, 0.5]


def test_the_command_is_judged_by_it(folder, tiny_model_path):
    words = [f"word{3 + i} word{3 + j}" for i in range(16) for j in range(5)]
    rows = [{"prompt": prompt, "chosen": "word1", "rejected": "word2 word2"} for prompt in words]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--model", str(tiny_model_path), "--dataset", "pairs.jsonl", "--report", "false"]
    size = ["--max-steps", "2", "--eval-prompts", "8", "--eval-pairs", "4", "--lora-rank", "4"]
    size += ["--seeds", "0", "--interpolate", "1"]
    limits = ["--max-prompt-tokens", "8", "--max-response-tokens", "4"]
    script, *options = COMMAND.split()
    said = run_in_copy(folder, str(ROOT / script), *options, *data, *size, *limits)
    comparison = json.loads((folder / "runs/default/comparison.json").read_text())
    assert comparison["judge"]["name"] == "the shorter answer of 2 words or more"
    assert comparison["judge"]["kind"] == "compares"
    assert re.search(r"It counted\s+the\s+words\s+of\s+\d+\s+pairs\.", said)
    assert comparison["config"]["shorter"] == {"shorter_least": 2}
    assert comparison["methods"]["dpo"]["win_rate"]["n"] == 8
