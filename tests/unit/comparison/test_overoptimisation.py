"""A method followed over training: which points, on which prompts, and the law found again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.contests import by_gold
from preflab.eval.comparison.laws import course, fit_laws
from preflab.eval.comparison.record import summarise_comparison
from preflab.eval.records.records import Records

PROMPTS = 60


def records(kl, gold, proxy=0.0, prompts=PROMPTS, seed=0, noise=0.0):
    draw = np.random.default_rng([seed, round(1000 * kl)])
    return Records(
        [
            {
                "prompt": f"p{i}",
                "response": "words",
                "length": 5,
                "ended": True,
                "log_ratio": kl,
                "kl": kl * (1 + noise * draw.normal()),
                "entropy": 1.0,
                "gold": gold + noise * draw.normal(),
                "proxy": proxy,
            }
            for i in range(prompts)
        ],
        [],
    )


def law(d, alpha=3.0, beta=2.0):
    return 1.0 + d * (alpha - beta * math.log(d))


def moment(d, step, seeds=1, **fields):
    found = [records(d**2, law(d), proxy=d, seed=seed, **fields) for seed in range(seeds)]
    return Contestant("dpo", found, varied={"step": step})


def followed(seeds=1, prompts=20, **fields):
    """A method past its best: d = 0.5, 1, 2 on the way and 3 at the end, whose records have all prompts."""
    way = [moment(d, step, seeds, prompts=prompts, **fields) for d, step in ((0.5, 1), (1.0, 4), (2.0, 9))]
    end = moment(3.0, 16, seeds, **fields)
    return Contestant("dpo", end.records, training=[{"steps": 16}] * seeds, course=way)


START = Contestant("sft", [records(0.0, 1.0)])


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_law_is_found_again_over_training(seeds):
    found = fit_laws([followed(seeds)], START)["dpo"]
    assert (found.over, found.law) == ("training", "rl")
    assert found.alpha.mean == pytest.approx(3.0)
    assert found.beta.mean == pytest.approx(2.0)
    assert found.peak.d.mean == pytest.approx(math.exp(0.5))
    assert found.peak.reached
    assert [(p.step, p.d) for p in found.points] == [(0, 0), (1, 0.5), (4, 1), (9, 2), (16, 3)]
    assert {p.gold.n for p in found.points} == {20 * seeds}


def test_intervals_know_prompts_and_seeds():
    found = fit_laws([followed(3, noise=0.3)], START)["dpo"]
    for estimate in (found.alpha, found.beta, found.points[2].kl, found.points[2].gold):
        assert estimate.low < estimate.mean < estimate.high
    assert found.alpha.low < 3.0 < found.alpha.high


def test_the_last_point_is_the_evaluation_that_is_compared_on_the_same_prompts():
    method = followed(noise=0.3)
    last = fit_laws([method], START)["dpo"].points[-1]
    first = method.records[0].samples[:20]
    for name in ("kl", "gold", "proxy"):
        assert vars(last)[name].mean == pytest.approx(np.mean([row[name] for row in first]))
    assert [row["prompt"] for row in course(method, START)[-1].records[0].samples] == [f"p{i}" for i in range(20)]


def test_training_goes_before_settings():
    swept = [Contestant("dpo", [records(d**2, 1 + d)], varied={"beta": d}) for d in (0.3, 0.6, 0.9)]
    both = fit_laws([followed(), *swept], START)["dpo"]
    assert (both.over, len(both.points)) == ("training", 5)
    alone = fit_laws(swept, START)["dpo"]
    assert (alone.over, alone.points[0].step) == ("settings", None)
    assert fit_laws(swept[:1], START) is None


def test_what_trains_nothing_follows_the_law_of_best_of_n():
    swept = [
        Contestant("best", [records(d**2, 1 + d * (3 - 2 * d))], training=[{"steps": 0}], varied={"n": d})
        for d in (0.3, 0.6, 0.9)
    ]
    found = fit_laws(swept, START)["best"]
    assert (found.law, found.alpha.mean, found.beta.mean) == ("bon", pytest.approx(3), pytest.approx(2))


def test_a_comparison_says_that_the_method_is_past_its_best():
    costs = {"peak_memory_bytes": 1, "steps": 16}
    way = [moment(d, step, noise=0.1) for d, step in ((0.5, 1), (1.7, 4), (3.0, 9))]
    end = moment(4.2, 16, noise=0.1)
    method = Contestant("dpo", end.records, training=[costs], course=way)
    found = summarise_comparison([START, method], baseline=[[START.records[0]]], decide=by_gold)
    assert len(found.overoptimisation["dpo"].points) == 5
    symptoms = {finding.symptom: finding for finding in found.diagnosis["dpo"]}
    assert "at step 4 " in symptoms["over-optimisation"].evidence
