"""How many test prompts a comparison takes."""

from __future__ import annotations

import logging

import pytest

from preflab.errors import UserError
from preflab.eval.pipeline.enough import detectable_effect, fewest_rows, say_what_is_seen


@pytest.mark.parametrize(("policies", "fewest"), [(1, 2), (2, 6), (3, 7), (4, 8), (11, 12)])
def test_fewer_prompts_than_can_show_anything_are_refused(policies, fewest):
    assert fewest_rows(policies, fewest) == {"eval_prompts": fewest, "heldout": 2}
    if policies > 1:
        with pytest.raises(UserError, match=rf"--eval-prompts is {fewest - 1}, .* fewer than {fewest} test prompts"):
            fewest_rows(policies, fewest - 1)


def test_the_effect_that_is_seen_is_that_of_a_normal_test():
    # z(0.975) = 1.960 and z(0.8) = 0.842, over the root of 16.
    assert detectable_effect(16, 1) == pytest.approx((1.960 + 0.842) / 4, abs=1e-3)
    assert detectable_effect(16, 3) > detectable_effect(16, 1)


def test_few_prompts_are_said_to_see_large_differences_alone(caplog):
    with caplog.at_level(logging.WARNING):
        say_what_is_seen(3, 200)
        say_what_is_seen(1, 2)
        assert not caplog.records
        say_what_is_seen(3, 9)
    assert "9 test prompts: a difference is seen four times in five only if it is 1.1" in caplog.text
