"""docs/data_check.md: its example is made by its code, and what it says without the model's tokens is said today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preflab.eval.pipeline.checking import CheckedConfig, check_data
from preflab.eval.pipeline.data_page import page

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "data_check.md").read_text(encoding="utf-8")


@pytest.fixture
def said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1], {})
    columns = re.search(r"--columns (\S+)", PAGE)[1].split(",")
    return page(check_data(CheckedConfig(dataset="sums.jsonl", columns=tuple(columns)), 1)).splitlines()


def test_the_page_shows_what_is_said(said):
    shown = re.search(r"^```\n(sums.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1].splitlines()
    # Lengths, rows and what a chat template does of itself are the model's.
    beginnings = (
        "sums.jsonl:",
        "  layout:",
        "  47 ",
        "- sums.jsonl: columns",
        "- sums.jsonl: 2 bad",
        "  training",
        "  pairs",
    )
    beginnings += ("  held-out", "- rows whose", "- 2% of the chosen", "- the rejected")
    for beginning in beginnings:
        [line] = [line for line in shown if line.startswith(beginning)]
        assert line in said, beginning


def test_its_commands_are_of_options_that_there_are():
    for command in re.findall(r"^preflab data check (.*)$", PAGE, re.MULTILINE):
        for option in re.findall(r"--([\w-]+)", command.partition("#")[0]):
            assert option.replace("-", "_") in {*CheckedConfig.__dataclass_fields__, "rows"}, option
