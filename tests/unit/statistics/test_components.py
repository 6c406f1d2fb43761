"""The parts of a difference's variance, and designs planned from them, against simulations whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from preflab.eval.statistics.significance import compare
from preflab.eval.statistics.variance import Components, components, detectable, scale, spread

SEEDS, PROMPTS, REST = 0.2, 0.7, 1.1


def tables(rng, draws, seeds, prompts, mean=0.0):
    """Draw differences ``[R, S, N]`` of two methods paired within replications."""
    shape = (draws, seeds, prompts)
    values = mean + SEEDS * rng.normal(size=(draws, seeds, 1)) + PROMPTS * rng.normal(size=(draws, 1, prompts))
    return values + REST * rng.normal(size=shape)


@pytest.mark.parametrize("groups", [1, 2])
def test_components_are_right_on_average(groups):
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(600):
        sides = [tables(rng, 1, 4, 50)[0] for _ in range(groups)]
        per_prompt = sides[0].mean(0) - (sides[1].mean(0) if groups == 2 else 0.0)
        found = components(spread(per_prompt, sides))
        squares.append((found.seeds**2, found.prompts**2, found.rest**2))
        assert found.groups == groups
        assert found.design == (4, 50)
    truth = groups * np.array([SEEDS, PROMPTS, REST]) ** 2
    # Parts below 0 count as 0, which lifts the seeds' part a little.
    assert np.mean(squares, 0) == pytest.approx(truth, rel=0.12)


def test_a_design_has_the_mean_squares_that_it_was_planned_with():
    parts = Components(SEEDS, PROMPTS, REST, 1, (3, 100))
    table = tables(np.random.default_rng(1), 4000, 5, 80)
    found, planned = spread(table.mean(1), [table]), parts.at(5, 80)
    for name in ("seeds", "prompts", "rest"):
        assert getattr(found, name).mean() == pytest.approx(float(np.sum(getattr(planned, name))), rel=0.05)
    assert planned.seeds_df.tolist() == [4.0]
    assert planned.prompts_df == 79


def test_planning_is_the_way_back():
    parts = Components(SEEDS, PROMPTS, REST, 2, (3, 100))
    again = components(parts.at(3, 100))
    assert (again.seeds, again.prompts, again.rest) == pytest.approx((SEEDS, PROMPTS, REST))
    assert (again.groups, again.design) == (2, (3, 100))


@pytest.mark.parametrize(("seeds", "prompts"), [(3, 96), (5, 96), (8, 256)])
def test_a_planned_difference_is_seen_four_times_in_five(seeds, prompts):
    mean = detectable(Components(SEEDS, PROMPTS, REST, 1, (3, 100)).at(seeds, prompts), 0.95, planned=True)
    table = tables(np.random.default_rng([seeds, prompts]), 4000, seeds, prompts, mean)
    found = scale(spread(table.mean(1), [table]))
    seen = (table.mean((1, 2)) > found.critical(0.95) * found.error).mean()
    assert seen == pytest.approx(0.8, abs=0.03)


def test_one_seed_knows_nothing_of_others():
    values = np.random.default_rng(0).normal(size=(2, 60))
    found = compare(values[:1], values[1:]).components
    assert (found.groups, found.seeds, found.rest) == (0, 0.0, 0.0)
    assert found.prompts == pytest.approx((values[0] - values[1]).std(ddof=1))


def test_a_cautious_plan_is_above_the_pilot_four_times_in_five():
    rng, above = np.random.default_rng(2), []
    for _ in range(1500):
        table = tables(rng, 1, 3, 200)[0]
        above.append(components(spread(table.mean(0), [table])).cautious(0.8).seeds >= SEEDS)
    assert np.mean(above) == pytest.approx(0.8, abs=0.03)


def test_more_seeds_and_more_prompts_see_less():
    parts = Components(SEEDS, PROMPTS, REST, 1, (3, 100))
    seen = [[detectable(parts.at(s, n), 0.95, planned=True) for n in (50, 200)] for s in (2, 3, 5, 9)]
    assert all(few > many for few, many in seen)
    assert all(a[0] > b[0] for a, b in itertools.pairwise(seen))
