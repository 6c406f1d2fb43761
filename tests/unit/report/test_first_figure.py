"""The first figure: every difference once, on one scale that holds its zero, filled where it is beyond chance."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from report_fixture import bare, comparison, typed

from preflab.eval.records.comparison import Comparison
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import EqualKl
from preflab.eval.report.differences import OPEN, contrasts, differences, first_figure, scale


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for group in found["groups"] for row in group["rows"]] + found["rest"]


def test_methods_come_first_the_better_one_first_and_each_against_the_start_after() -> None:
    found = contrasts(typed(comparison()))
    assert found is not None
    assert [(c.first, c.second) for c in found.between] == [("ppo", "dpo"), ("ppo", "ipo"), ("dpo", "ipo")]
    assert [(c.first, c.second) for c in found.start] == [("ppo", "sft"), ("dpo", "sft"), ("ipo", "sft")]
    assert all(c.difference.mean > 0 for c in found.rows)
    assert found.between[0].difference == Figure(0.28, 0.17, 0.39, 256)  # of dpo less ppo, turned round
    assert [c.winner for c in found.between] == ["ppo", "ppo", None]
    assert found.unit == "gold reward"
    assert found.elsewhere == 0


def test_marks_stand_on_the_scale_where_the_numbers_say() -> None:
    found = first_figure(typed(comparison()))
    assert found is not None
    ticks = {tick["text"]: tick["at"] for tick in found["ticks"]}
    assert ticks["0"] == found["zero"]
    per_unit = ticks["1"] - ticks["0"]
    first = rows_of(found)[0]
    assert first["text"] == "+0.28"
    assert first["interval"] == "[0.17, 0.39]"
    assert first["verdict"] == "ppo better"
    assert first["mean"] == pytest.approx(found["zero"] + 0.28 * per_unit, abs=0.02)
    assert first["ends"] == pytest.approx(
        {"low": found["zero"] + 0.17 * per_unit, "high": found["zero"] + 0.39 * per_unit}, abs=0.02
    )
    assert rows_of(found)[2]["verdict"] == "no detectable difference"


@pytest.mark.parametrize(
    "ends", [(0.1, 0.3), (-3e-5, 2e-5), (-70.0, -20.0), (0.0, 0.0), (4e6, 5e6), (0.17, 1.32), (-0.7, 0.02)]
)
def test_the_scale_is_round_and_holds_zero_and_every_interval(ends: tuple[float, float]) -> None:
    low, high = ends
    ticks = scale([Figure((low + high) / 2, low, high, 9), Figure(math.nan, math.nan, math.nan, 0)])
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= min(low, 0.0) + 1e-9 * abs(low)
    assert ticks[-1] >= max(high, 0.0) - 1e-9 * abs(high)
    step = ticks[1] - ticks[0]
    assert any(abs(tick) < 1e-9 * step for tick in ticks)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1.0, 2.0, 2.5, 5.0)


def test_many_differences_are_folded_away_and_none_is_lost() -> None:
    names = [f"m{i}" for i in range(9)]
    one = typed(comparison())
    tests = tuple(replace(one.pairwise[0], first=a, second=b) for a, b in combinations(names, 2))
    found = first_figure(replace(one, pairwise=tests, baseline="m0", ranking=()))
    assert found is not None
    assert len(found["rest"]) == len(tests) - OPEN
    assert {frozenset((row["first"], row["second"])) for row in rows_of(found)} == {
        frozenset(pair) for pair in combinations(names, 2)
    }


def with_equal_kl(found: Comparison, **fields: Any) -> Comparison:
    assert found.frontier is not None
    row = EqualKl(
        first="dpo", second="ppo", low_kl=0.0, high_kl=6.0, difference=Figure(-0.11, -0.2, -0.02, 256), p=0.01,
        p_adjusted=0.02, verdict="second", band=(),
    )  # fmt: skip
    return replace(found, frontier=replace(found.frontier, equal_kl=(row,)), **fields)


def test_the_endpoint_of_the_headline_is_drawn_and_no_other() -> None:
    found = contrasts(with_equal_kl(typed(comparison()), primary="equal-kl"))
    assert found is not None
    assert found.unit == "gold reward, mean over the KLs that both reach"
    assert [(c.first, c.second, c.winner) for c in found.rows] == [("ppo", "dpo", "ppo")]
    beside = contrasts(with_equal_kl(typed(comparison()), primary="gold"))
    assert beside is not None
    assert len(beside.rows) == 6


def test_win_rates_are_in_percentage_points_and_never_beside_rewards() -> None:
    one = typed(comparison())
    wins = replace(one, pairwise=tuple(replace(pair, measure="win_rate") for pair in one.pairwise))
    found = first_figure(wins)
    assert found is not None
    assert found["unit"] == "win rate less that of the other, percentage points"
    assert rows_of(found)[0]["text"] == "+28.0"
    assert found["ticks"][-1]["text"] == "150"
    mixed = first_figure(replace(one, pairwise=(*wins.pairwise[:2], *one.pairwise[2:])))
    assert mixed is not None
    assert mixed["elsewhere"] == 2
    assert len(rows_of(mixed)) == 4


def test_small_rewards_keep_their_digits() -> None:
    one = typed(comparison())
    small = replace(one.pairwise[0], difference=Figure(0.00031, 0.0002, 0.0004, 9))
    found = first_figure(replace(one, pairwise=(small,)))
    assert found is not None
    assert rows_of(found)[0]["interval"] == "[−0.00040, −0.00020]"


def test_a_difference_without_an_interval_has_a_mark_alone() -> None:
    one = typed(comparison())
    few = replace(one.pairwise[0], difference=Figure(-0.4, math.nan, math.nan, 6))
    found = first_figure(replace(one, pairwise=(few,)))
    assert found is not None
    (row,) = rows_of(found)
    assert row["ends"] is None
    assert row["mean"] > found["zero"]
    assert differences(replace(one, pairwise=(few,))) is not None


def test_without_a_test_there_is_no_figure() -> None:
    assert first_figure(typed(bare())) is None
    assert differences(typed(bare())) is None
