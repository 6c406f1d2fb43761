"""Trials of one method's settings: where they lie, which is chosen, and what interruptions and failures change."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from preflab.errors import UserError
from preflab.eval.pipeline.entries import Entry
from preflab.eval.pipeline.searching import EVEN, Outcome, Search, TuneConfig, search_space_of
from preflab.method.configured import make_method
from preflab.settings.fields import search_space


class Peaked(Search):
    """Trials whose objective is known: best at a learning rate of 2e-3 and β = 0.05, and further off the smaller β."""

    fails: frozenset[int] = frozenset()
    stops_after: int | None = None

    def attempt(self, number, settings):
        if number == self.stops_after:
            raise KeyboardInterrupt
        if number in self.fails:
            raise UserError("the loss is NaN")
        rate, beta = settings["learning_rate"], settings["beta"]
        objective = -(np.log(rate / 2e-3) ** 2) - 0.1 * np.log(beta / 0.05) ** 2
        return Outcome(objective, 0.1 / beta, {"seconds": 1.0, "flops": 7.0})


def search(folder, trials, **options):
    session = SimpleNamespace(run=SimpleNamespace(output=str(folder)))
    arena = SimpleNamespace(experiment=SimpleNamespace(identity=dict), session=session)
    ground = SimpleNamespace(config=SimpleNamespace(eval_prompts=7))
    place = SimpleNamespace(
        arena=arena, config=TuneConfig(tune=trials, **options), ground=ground, learnt_on=arena.experiment
    )
    return Peaked(place, Entry(make_method("dpo", {"learning_rate": 1e-3}), {}))


def test_the_space_is_what_the_methods_fields_say_around_the_configured_values():
    def space(name, **values):
        return search_space_of(Entry(make_method(name, values), {}))

    dpo = space("dpo", learning_rate=1e-3, beta=0.2)
    assert dpo["learning_rate"] == pytest.approx((2.5e-4, 4e-3))
    assert dpo["beta"] == pytest.approx((0.04, 1.0))
    assert set(space("ppo")) == {"learning_rate", "kl_coefficient"}
    assert set(space("grpo")) == {"learning_rate", "kl_coefficient"}, "a field declared anew is tuned as it was"
    assert set(space("ppo", kl_coefficient=0.0)) == {"learning_rate"}, "no factor changes 0"
    assert space("best-of-n") == {}
    assert space("dpo", beta=2e-6)["beta"][0] == 1e-6, "within the field's bounds"
    assert set(search_space(make_method("orpo").config)) == {"odds_weight"}


def test_the_best_trial_is_chosen_and_the_first_is_the_configured_one(tmp_path):
    found = search(tmp_path, 8).run()
    assert [trial.number for trial in found.trials] == list(range(8))
    assert found.trials[0].settings == {"learning_rate": 1e-3, "beta": 0.1}
    assert found.chosen == max(found.trials, key=lambda trial: trial.objective).number
    assert (found.prompts, found.objective) == (7, "gold")
    assert found.importance == {}, "eight trials tell nothing of it"


def test_later_trials_go_where_the_earlier_were_good(tmp_path):
    found = search(tmp_path, 40).run()
    off = [abs(np.log(trial.settings["learning_rate"] / 2e-3)) for trial in found.trials]
    assert np.mean(off[-15:]) < 0.6 * np.mean(off[:EVEN])
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert found.importance["learning_rate"] > found.importance["beta"]


def test_an_interrupted_search_ends_as_one_that_was_not(tmp_path):
    whole = search(tmp_path / "whole", 14)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    expected = whole.run()
    for stop in (3, 12):
        cut = search(tmp_path / "cut", 14)
        cut.stops_after = stop
        with pytest.raises(KeyboardInterrupt):
            cut.run()
    assert search(tmp_path / "cut", 14).run() == expected


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    few = search(tmp_path, 5).run()
    more = search(tmp_path, 11).run()
    assert more.trials[:5] == few.trials


def test_a_trial_that_fails_counts_and_is_not_chosen(tmp_path, caplog):
    one = search(tmp_path, 4)
    one.fails = frozenset({0, 2})
    with caplog.at_level(logging.WARNING):
        found = one.run()
    assert [trial.objective is None for trial in found.trials] == [True, False, True, False]
    assert found.chosen in (1, 3)
    assert "trial 2 of dpo ended without a figure: the loss is NaN" in caplog.text
    hopeless = search(tmp_path / "other", 2)
    (tmp_path / "other").mkdir()
    hopeless.fails = frozenset({0, 1})
    with pytest.raises(UserError, match="none of the 2 trials of dpo"):
        hopeless.run()


def test_trials_past_the_limit_of_kl_are_chosen_only_where_there_are_no_others(tmp_path, caplog):
    free = search(tmp_path, 8).run()
    best = free.trials[free.chosen]
    near = search(tmp_path / "near", 8, tune_kl=best.kl * 0.9)
    (tmp_path / "near").mkdir()
    found = near.run()
    assert found.trials[found.chosen].kl <= best.kl * 0.9
    none = search(tmp_path / "none", 8, tune_kl=1e-3)
    (tmp_path / "none").mkdir()
    assert none.run().chosen == free.chosen
    assert "no trial lies within 0.001 nats" in caplog.text
