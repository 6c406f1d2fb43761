"""The pages in docs/methods are what the code says of itself now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.make_method_pages import Subject, built_in, markdown, pages
from preflab.method import registry

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"

THEIR_LOSS = '''
"""A title (arXiv 2305.18290, eq. 7).

    indented | code * here

A *note* with ``code_of * this`` and y_<t.
"""
from dataclasses import dataclass
from typing import Literal

from preflab import Pairwise, option


@dataclass(frozen=True)
class Config:
    some: float | None = option(None, "a factor, |y| or so", minimum=0.5, maximum=2)
    kind: Literal["a", "b"] = option("a", "which")
    flag: bool = option(True, "whether")


class Loss(Pairwise):
    """L = some * margin.

    Where this converges, nobody knows.

    Args:
        config: not for the page.
    """

    Config = Config
    training = {"learning_rate": 0.5}
    metrics = {**Pairwise.metrics, "mine": "something of |y|"}

    def pair_loss(self, pair): ...
'''


@pytest.fixture(scope="module")
def generated():
    conformance = ROOT / "docs" / "conformance.json"
    return pages(built_in(), json.loads(conformance.read_text()) if conformance.is_file() else [])


def test_committed_pages_are_those_of_the_code(generated):
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    stale = {name for name in committed | generated if committed.get(name) != generated.get(name)}
    assert not stale, "run `make pages`"


def test_every_page_names_every_field_and_metric(generated):
    for name in built_in():
        subject, page = Subject(name), generated[f"{name}.md"]
        for field in subject.algorithm.Config.__dataclass_fields__:
            assert f"| `{field}` |" in page
        for metric, text in subject.method.metrics.items():
            assert f"| `{metric}` | {markdown(text)}".replace("(y|x)", "(y\\|x)") in page
        assert ("zero_variance_groups" in page) == (
            subject.needs.responses == "sampled" and subject.method.kind == "loss"
        )


def test_every_policy_says_what_it_converges_to_or_that_nobody_knows(generated):
    for name in built_in():
        subject = Subject(name)
        assert subject.limits or "policy" not in subject.needs.trains, name


def test_links_lead_somewhere(generated):
    for text in generated.values():
        for target in re.findall(r"\]\(([^)]*)\)", text):
            if not target.startswith("https://arxiv.org/abs/"):
                assert (FOLDER / target).is_file(), target


def test_the_index_lists_built_in_methods_alone(generated):
    listed = re.findall(r"^\| \[`([^`]+)`\]", generated["README.md"], re.MULTILINE)
    assert listed == built_in()
    assert set(listed) <= set(registry.registered())


def test_a_method_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "their_loss.py").write_text(THEIR_LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    name = "their_loss:Loss"
    rows = [{"method": name, "optimum": None, "regret": 0.00123, "kl": 1.23456}, {"method": "dpo", "regret": 9}]
    page = pages([name], rows)[f"{name}.md"]
    for line in (
        "A title (arXiv [2305.18290](https://arxiv.org/abs/2305.18290), eq. 7).",
        "```text\nL = some * margin.\n```",
        "```text\nindented | code * here\n```",
        "A \\*note\\* with `code_of * this` and y_\\<t.",
        "## What it converges to\n\nWhere this converges, nobody knows.\n\n"
        "At the default fields `optimum` is not known.",
        "| `some` | none | float ≥ 0.5, ≤ 2 or none | a factor, \\|y\\| or so |",
        "| `kind` | `a` | `a`, `b` | which |",
        "| `flag` | `true` | bool | whether |",
        "changes `learning_rate` `0.5` (usually `0.0001`).",
        "| `mine` | something of \\|y\\| |",
        "| optimum | regret | kl |\n| --- | --- | --- |\n| – | 0.12 % | 1.235 |\n",
    ):
        assert line in page
    assert "not for the page" not in page
    assert "900" not in page
