"""Groups of prompts that no split may tear apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from real_rows import SPLITS, open_rows, pair, write

from preflab.errors import UserError


def test_group_column_in_one_file_only_is_not_trusted(model: str, tmp_path: Path) -> None:
    def dialogue(i: int, **extra: Any) -> dict[str, Any]:
        return pair(i, prompt=f"Human: Hello {i % 30}\n\nAssistant: Yes?\n\nHuman: {i}\n\nAssistant:", **extra)

    heldout = write(tmp_path / "heldout.jsonl", [dialogue(i) for i in range(100, 105)] + [pair(1)])
    # By their own group column no row of training shares a group with the held-out first turns.
    world = open_rows(model, tmp_path, [dialogue(i, group=i) for i in range(60)], heldout=heldout)
    assert world.facts["leaking held-out rows dropped"] == 5
    assert world.facts["groups"]["pairs"] + world.facts["groups"]["gold_pairs"] == 30


def test_group_column_keeps_prompts_together(model: str, tmp_path: Path) -> None:
    world = open_rows(model, tmp_path, [pair(i, group=i // 10) for i in range(400)])
    groups = [{int(p.split()[1][:-1]) // 10 for p in getattr(world, name)["prompt"]} for name in SPLITS[:3]]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40


@pytest.mark.parametrize("nothing", ["", None, float("nan")])
def test_groups_that_only_some_rows_name(model: str, tmp_path: Path, nothing: Any) -> None:
    """A row that names none is of the group of its first turn, not of one with all others."""
    rows = [pair(i, group=f"book {i % 4}" if i < 12 else nothing) for i in range(200)]
    world = open_rows(model, tmp_path, rows)
    counts = [len(getattr(world, name)) for name in ("pairs", "heldout", "gold_pairs")]
    # .6, .2 and .2 of 188 groups, deviations up to 7, and what the four books add.
    assert all(abs(count - share * 200) < 40 for count, share in zip(counts, (0.6, 0.2, 0.2), strict=True))
    none = open_rows(model, tmp_path, [{**row, "group": nothing} for row in rows])
    plain = open_rows(model, tmp_path, [pair(i) for i in range(200)])
    assert none.facts["fingerprints"] == plain.facts["fingerprints"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, ["first human turn is the same ('good morning')", "add a column 'group'"]),
        ({"group": "all"}, ["the column 'group' has one value", "leave the column out"]),
    ],
)
def test_one_group_is_said_with_the_way_out(
    model: str, tmp_path: Path, extra: dict[str, Any], words: list[str]
) -> None:
    def turn(i: int, **more: Any) -> dict[str, Any]:
        return pair(i, prompt=f"Human: Good morning\n\nAssistant: Yes?\n\nHuman: {i}?\n\nAssistant:", **more)

    with pytest.raises(UserError) as error:
        open_rows(model, tmp_path, [turn(i, **extra) for i in range(30)])
    message = str(error.value)
    assert all(word in message for word in ["all 30 usable rows", "data.jsonl", "one group", *words]), message
    assert "fraction" not in message, "no fraction could help"
    with pytest.raises(UserError, match=r"are 2 groups, too few for 3 splits: ") as error:
        open_rows(model, tmp_path, [turn(i, group=i % 2) for i in range(30)])
    assert "the column 'group' has 2 values; give each dialogue" in str(error.value)
    assert len(open_rows(model, tmp_path, [turn(i, group=i) for i in range(30)]).heldout)


def test_a_group_of_most_rows_is_said(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [pair(i, prompt=f"Human: {'Hi' if i % 3 else i}\n\nAssistant: Yes?\n\nHuman: {i}") for i in range(90)]
    open_rows(model, tmp_path, rows)
    assert "60 of 90 pairs share the first turn 'hi'" in caplog.text
    caplog.clear()
    open_rows(model, tmp_path, [pair(i) for i in range(90)])
    assert "share" not in caplog.text
