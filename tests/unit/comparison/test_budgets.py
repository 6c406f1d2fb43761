"""What several methods spent, compared: what was equal, and what was not."""

from __future__ import annotations

import pytest

from preflab.eval.comparison.budgets import QUANTITIES, Below, compare_budgets
from preflab.eval.records.comparison import Charge


def budget_record(**changes):
    usual = dict.fromkeys(QUANTITIES, 1000)
    return {**usual, "final": {}, **changes}


def test_what_was_equal_and_what_was_not():
    methods = {
        "dpo": [budget_record(flops=1010, seconds=10.0, sampled_tokens=0), budget_record(flops=990, sampled_tokens=0)],
        "ppo": [budget_record(flops=1019, pairs=0), budget_record(flops=1021, seconds=2000.0, pairs=0)],
    }
    found = compare_budgets(methods, "flops", tried={"dpo": 3, "sft": 7})
    assert (found.matched, found.unknown, found.untrained) == ("flops", (), ())
    assert set(found.unequal) == {"compared pairs", "sampled tokens", "wall time", "settings tried"}
    assert "FLOPs" in found.equal, "1000 and 1020 on average"
    assert set(found.equal) | set(found.unequal) == {*QUANTITIES.values(), "settings tried"}
    assert found.sentence.startswith("Budgets of 2 methods: matched in FLOPs; equal within 2%: ")
    assert "wall time (up to 2.97 times)" in found.sentence
    assert "compared pairs (none for some)" in found.sentence
    assert "settings tried: 3 of dpo, 1 of ppo" in found.sentence


def test_two_percent_is_the_limit():
    for flops, kind in ((1020, "equal"), (1021, "unequal")):
        found = compare_budgets({"a": [budget_record()], "b": [budget_record(flops=flops)]}, "flops")
        assert "FLOPs" in vars(found)[kind]
        said = "meant to be matched in FLOPs, which differ by more than 2%"
        assert (said in found.sentence) == (kind == "unequal")


@pytest.mark.parametrize(
    ("flops", "apart"), [(1025, "2.5 % more"), (1020.1, "2.1 % more"), (1099, "9.9 % more"), (1100, "1.1 times")]
)
def test_a_small_excess_does_not_read_as_the_one_allowed(flops, apart):
    sentence = compare_budgets({"a": [budget_record()], "b": [budget_record(flops=flops)]}, "flops").sentence
    assert f"FLOPs (up to {apart})" in sentence


def test_what_a_method_does_not_count_is_not_compared():
    methods = {"a": [budget_record()], "b": [budget_record(flops=None), budget_record()], "n": [{"steps": 0}]}
    found = compare_budgets(methods)
    assert (found.unknown, found.untrained) == (("FLOPs",), ("n",))
    assert found.unequal == ()
    assert "not counted by every method: FLOPs" in found.sentence
    assert "not trained: n" in found.sentence
    assert "matched" not in found.sentence
    assert "in FLOPs, which not every method counted" in compare_budgets(methods, "flops").sentence


@pytest.mark.parametrize("count", [0, 1])
def test_one_method_is_compared_with_none(count):
    methods = {"dpo": [budget_record()]} if count else {}
    assert "no budgets to compare" in compare_budgets(methods, "tokens").sentence


def test_what_a_method_stands_on_is_charged_to_it_alone_and_in_shares():
    methods = {
        "dpo": [budget_record(flops=300), budget_record(flops=500)],
        "ppo": [budget_record(flops=800)],
        "best-of-n": [{"steps": 0}],
    }
    below = [
        Below("sft", [budget_record(flops=90)], ("dpo", "ppo", "best-of-n")),
        Below("reward model", [budget_record(flops=500), budget_record(flops=100)], ("ppo", "best-of-n")),
    ]
    found = compare_budgets(methods, below=below)
    assert found.stands_on == {
        "dpo": ("sft",),
        "ppo": ("sft", "reward model"),
        "best-of-n": ("sft", "reward model"),
    }
    flops = {name: charges["flops"] for name, charges in found.charged.items()}
    assert flops == {
        "dpo": Charge(400.0, 490.0, 430.0),
        "ppo": Charge(800.0, 1490.0, 1130.0),
        "best-of-n": Charge(0.0, 690.0, 330.0),
    }
    spent = sum(charge.shared for charge in flops.values())
    assert spent == 400 + 800 + 90 + 600, "shares add up to what was spent"
    said = "with all that each stands on: dpo 4.9e+02 FLOPs (sft), ppo 1.5e+03 FLOPs (sft, reward model), "
    assert said + "best-of-n 6.9e+02 FLOPs (sft, reward model), 3 times apart" in found.sentence


def test_what_was_not_counted_below_is_not_charged():
    methods = {"dpo": [budget_record(flops=300)], "ppo": [budget_record(flops=800)]}
    below = [Below("reward model", [budget_record(flops=None, seconds=5000)], ("ppo",))]
    found = compare_budgets(methods, below=below)
    assert found.charged["ppo"]["flops"] == Charge(800.0, None, None)
    assert found.charged["ppo"]["seconds"] == Charge(1000.0, 6000.0, 6000.0)
    assert "with all that each stands on: dpo 1e+03 s, ppo 6e+03 s (reward model), 6 times apart" in found.sentence
