"""Budgets that hold methods equal with all that they stand on."""

from __future__ import annotations

import pytest

from preflab.disk.stages import Stage
from preflab.errors import UserError
from preflab.eval.comparison.budgets import Below
from preflab.eval.pipeline.entries import CompareConfig, left, spent
from preflab.eval.pipeline.standing import charged_below
from preflab.method.configured import make_method
from preflab.training.budget import Budget

BELOW = [
    Below("sft", [{"flops": 90, "tokens": 9}], ("dpo", "ppo")),
    Below("reward model", [{"flops": 500, "tokens": 5}, {"flops": 100, "tokens": 5}], ("ppo",)),
]


def test_a_method_gets_what_the_stages_it_stands_on_leave(tmp_path):
    config = CompareConfig(match="flops", charge="all")
    dpo, ppo = make_method("dpo", {}), make_method("ppo", {})
    assert charged_below(BELOW, dpo, config) == 90
    assert charged_below(BELOW, ppo, config) == 690
    budget = spent(config, Stage("dpo-seed0", tmp_path, "key", {"flops": 1000}, False), 90)
    assert budget == Budget("flops", 1090)
    assert left(budget, ppo, 690) == Budget("flops", 400)
    assert left(budget, dpo, 90) == Budget("flops", 1000)
    with pytest.raises(UserError, match=r"ppo stands on took 690 flops, and the budget is 690.*costlier method first"):
        left(Budget("flops", 690), ppo, 690)


def test_nothing_below_is_charged_unless_it_is_asked_for():
    assert charged_below(BELOW, make_method("ppo", {}), CompareConfig(match="tokens")) == 0
    assert charged_below(BELOW, make_method("ppo", {}), CompareConfig(match="tokens", charge="all")) == 19
    with pytest.raises(ValueError, match="match is none"):
        CompareConfig(charge="all")
    uncounted = [Below("reward model", [{"flops": None}], ("ppo",))]
    with pytest.raises(UserError, match="reward model, whose flops are not known"):
        charged_below(uncounted, make_method("ppo", {}), CompareConfig(match="flops", charge="all"))
