"""--sweep: which settings it makes of which methods."""

from __future__ import annotations

import pytest

from preflab.errors import UserError
from preflab.experiment.sweep import Sweep, not_one_objective
from preflab.method.configured import make_method


def test_beta_stands_for_the_price_of_a_nat_in_every_method():
    sweep = Sweep.parse("beta=0.1,0.5")
    assert sweep.settings(make_method("dpo")) == [{"beta": 0.1}, {"beta": 0.5}]
    assert sweep.settings(make_method("ppo")) == [{"kl_coefficient": 0.1}, {"kl_coefficient": 0.5}]
    assert Sweep.parse("kl-coefficient=2").settings(make_method("dpo")) == [{"beta": 2}]
    assert sweep.settings(make_method("best-of-n")) == []


def test_equal_values_in_two_units_are_said_to_be_two_objectives():
    methods = [make_method(name) for name in ("dpo", "ppo", "best-of-n")]
    assert Sweep.parse("beta=0.1").named(methods) == {"beta": ["dpo"], "kl_coefficient": ["ppo"]}
    said = not_one_objective({"beta": ["dpo"], "kl_coefficient": ["ppo"], "step": ["ppo"]})
    assert said.startswith("beta (dpo) and kl_coefficient (ppo) of one value are not one objective")
    assert not_one_objective(Sweep.parse("beta=0.1").named(methods[:1])) is None
    assert not_one_objective(Sweep.parse("learning_rate=1,2").named(methods)) is None


def test_any_other_setting_is_taken_by_its_name():
    sweep = Sweep.parse("lr_scheduler_type=linear, constant")
    assert sweep.settings(make_method("dpo")) == [{"lr_scheduler_type": "linear"}, {"lr_scheduler_type": "constant"}]


@pytest.mark.parametrize("text", ["beta", "beta=", "=1,2", "beta=1,,2", "beta=[1,{2"])
def test_other_forms_are_refused(text):
    with pytest.raises(UserError, match="--sweep"):
        Sweep.parse(text)


def test_a_value_named_twice_is_refused():
    with pytest.raises(UserError, match="twice"):
        Sweep.parse("beta=1,2,1")


def test_a_setting_that_no_method_has_is_refused_with_near_misses():
    with pytest.raises(UserError, match="learning_rate"):
        Sweep.parse("learning_rat=1").check([make_method("dpo"), make_method("ppo")])
    Sweep.parse("beta=1").check([make_method("best-of-n"), make_method("dpo")])
