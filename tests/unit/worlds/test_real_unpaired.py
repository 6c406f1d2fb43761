"""Responses with a label alone, in the real world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_rows import open_rows, pair, source, write

from preflab.data.splits import fingerprint
from preflab.errors import UserError


def lone(i: int, label: bool, text: str = "", **extra: Any) -> dict[str, Any]:
    completion = text or (f"Good answer {i}." if label else "Bad.")
    return {"prompt": f"Question {i}?", "completion": completion, "label": label, **extra}


def test_unpaired_rows_give_the_world_of_their_pairs(model: str, tmp_path: Path) -> None:
    expected = open_rows(model, tmp_path, [pair(i) for i in range(60)])
    rows = [lone(i, label) for i in range(60) for label in (False, True)]
    world = open_rows(model, tmp_path, rows)
    assert world.facts["fingerprints"] == expected.facts["fingerprints"]
    assert world.singles is None
    assert "singles" not in world.facts["rows"]
    assert source(world)["rows read"] == 120
    assert source(world)["pairs used"] == 60
    messages = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
            "label": row["label"],
        }
        for row in rows
    ]
    assert len(open_rows(model, tmp_path, messages).pairs) == len(world.pairs)


def test_responses_without_a_partner_are_kept_for_training_prompts_alone(model: str, tmp_path: Path) -> None:
    rows = [lone(i, label) for i in range(60) for label in (False, True)]
    more = [lone(i, True, f"Also good {i}.") for i in range(30)] + [lone(i, False) for i in range(100, 160)]
    world = open_rows(model, tmp_path, rows + more)
    assert world.singles is not None
    assert world.singles.column_names == ["prompt", "response", "desirable", "group"]
    elsewhere = {*world.heldout["prompt"], *world.gold_pairs["prompt"]}
    assert not elsewhere & set(world.singles["prompt"])
    kept = {row["prompt"] for row in world.singles if row["desirable"]}
    assert kept == set(world.pairs["prompt"]) & {row["prompt"] for row in more}
    # 60 prompts with undesirable responses only, .6 of them in training; deviation 3.8, four of them.
    lonely = [row for row in world.singles if not row["desirable"]]
    assert abs(len(lonely) - 36) < 16
    assert source(world)["without partner"] == 90
    assert world.facts["rows"]["singles"] == len(world.singles)
    assert world.facts["fingerprints"]["singles"] == fingerprint(world.singles)
    json.dumps(world.facts)
    few = open_rows(model, tmp_path, rows + more, max_pairs=40, gold_fraction=0.0)
    assert (source(few)["pairs used"], source(few)["without partner"]) == (40, 40)


def test_overlong_response_leaves_its_partner_to_another(model: str, tmp_path: Path) -> None:
    rows = [row for i in range(40) for row in (lone(i, True, "x" * 50), lone(i, True), lone(i, False))]
    world = open_rows(model, tmp_path, rows, max_response_tokens=40)
    assert world.singles is None
    assert source(world)["pairs used"] == 40
    assert source(world)["too long"] == {"prompt too long": 0, "response too long": 40}


def test_heldout_prompts_of_lone_responses_leak_too(model: str, tmp_path: Path) -> None:
    """With held-out pairs in a file of their own, the data may have no pair at all."""
    rows = [lone(i, i % 2 == 0) for i in range(40)]
    heldout = write(tmp_path / "heldout.jsonl", [pair(i) for i in range(35, 50)])
    world = open_rows(model, tmp_path, rows, heldout=heldout, gold_fraction=0.0)
    assert world.singles is not None
    assert len(world.singles) == 40
    assert world.facts["leaking held-out rows dropped"] == 5
    assert set(world.heldout["prompt"]) == {pair(i)["prompt"] for i in range(40, 50)}
    for name, columns in (("pairs", ["prompt", "chosen", "rejected", "group"]), ("prompts", ["prompt", "group"])):
        assert len(getattr(world, name)) == 0
        assert getattr(world, name).column_names == columns
    assert len(world.demonstrations) == 0


def test_no_pair_at_all_is_answered_with_what_to_do(model: str, tmp_path: Path) -> None:
    rows = [lone(i, i % 2 == 0) for i in range(40)]
    with pytest.raises(UserError) as error:
        open_rows(model, tmp_path, rows)
    message = str(error.value)
    assert "no heldout and no gold pairs are left" in message
    assert "a desirable and an undesirable" in message
    assert "--heldout FILE" in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"no gold pairs are left.*--gold-fraction 0"):
        open_rows(model, tmp_path, rows, heldout=write(tmp_path / "heldout.jsonl", [pair(i) for i in range(50, 60)]))
