"""Every symptom is found where it is, and only there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from evidence import (
    FALLING,
    HALF,
    LENGTHS,
    LONGER,
    NEITHER,
    RISING,
    N,
    against,
    lines,
    over_training,
    pairs,
    samples,
    spread,
    table,
    words,
)

from preflab.errors import UserError
from preflab.eval.diagnosis import DETECTORS, Evidence, diagnose

CASES = {
    "reward hacking": (
        against(samples(**NEITHER), samples(proxy=spread(1, seed=2), gold=spread(-1, seed=3))),
        against(samples(**NEITHER), samples(proxy=spread(1, seed=2), gold=spread(1, seed=3))),
    ),
    "over-optimisation": (
        over_training([0, 1, 2, 1], [0, 1, 2, 3]),
        over_training([0, 1, 2, 1], [0, 1, 2, 1]),
    ),
    "mass where data say nothing": (
        Evidence(records=samples(log_ratio=[9.0, 2.0] * 50), training={"responses": 8192, "sampled_tokens": 0}),
        Evidence(records=samples(log_ratio=[9.0, 2.0] * 50), training={"responses": 8192, "sampled_tokens": 5}),
    ),
    "length exploitation": (
        against(samples(length=LENGTHS, proxy=LENGTHS), samples(length=LONGER, proxy=LONGER)),
        against(samples(length=LENGTHS, proxy=spread(0)), samples(length=LONGER, proxy=spread(5, seed=2))),
    ),
    "likelihood displacement": (
        Evidence(lines(chosen_logps=FALLING, rejected_logps=FALLING), pairs(chosen_length=[20] * N)),
        Evidence(lines(chosen_logps=RISING, rejected_logps=FALLING), pairs(chosen_length=[20] * N)),
    ),
    "miscalibrated reward model": (
        Evidence(records=pairs(chosen_score=[5.0, 5.0, 5.0, -5.0] * 25, rejected_score=0.0), scale=1.0),
        Evidence(records=pairs(chosen_score=[5.0, 5.0, 5.0, -5.0] * 25, rejected_score=0.0), scale=0.22),
    ),
    "uninformative reward model": (
        Evidence(records=pairs(chosen_score=HALF, rejected_score=0.5)),
        Evidence(records=pairs(chosen_score=[1.0, 1.0, 1.0, 0.0] * 25, rejected_score=0.5)),
    ),
    "overfitting": (
        Evidence(lines(accuracy=[0.98] * 8), pairs(chosen_score=[1.0, 1.0, 0.0, 1.0] * 25, rejected_score=0.5)),
        Evidence(lines(accuracy=[0.80] * 8), pairs(chosen_score=[1.0, 1.0, 0.0, 1.0] * 25, rejected_score=0.5)),
    ),
    "length bias": (
        Evidence(
            records=pairs(
                chosen_score=[3.0, 1.0] * 50, rejected_score=2.0, chosen_length=[3, 1] * 50, rejected_length=2
            )
        ),
        Evidence(records=pairs(chosen_score=3.0, rejected_score=2.0, chosen_length=[3, 1] * 50, rejected_length=2)),
    ),
    "KL blow-up": (
        Evidence(records=samples(log_ratio=spread(20, 3), length=10)),
        Evidence(records=samples(log_ratio=spread(20, 3), length=40)),
    ),
    "negative KL": (
        Evidence(records=samples(log_ratio=spread(-1))),
        Evidence(records=samples(log_ratio=spread(-0.1))),
    ),
    "reference mismatch": (
        Evidence(baseline=samples(log_ratio=spread(0, 0.5), length=10)),
        Evidence(baseline=samples(log_ratio=spread(0, 0.001), length=10)),
    ),
    "mode collapse": (
        against(samples(entropy=spread(2, 0.2)), samples(entropy=spread(0.3, 0.1))),
        against(samples(entropy=spread(2, 0.2)), samples(entropy=spread(1, 0.2))),
    ),
    "entropy blow-up": (
        against(samples(entropy=spread(1, 0.2)), samples(entropy=spread(2, 0.2, seed=1))),
        against(samples(entropy=spread(1, 0.2)), samples(entropy=spread(1.2, 0.2, seed=1))),
    ),
    "repetition": (
        against(samples(response=words(50)), samples(response=words(2, length=12))),
        against(samples(response=words(50)), samples(response=words(50, seed=1))),
    ),
    "missing end tokens": (
        against(samples(ended=[1.0] * N), samples(ended=HALF)),
        against(samples(ended=[1.0] * N), samples(ended=[0.0] * 5 + [1.0] * (N - 5))),
    ),
    "no reward variance": (
        Evidence(lines(zero_variance_groups=[0.9] * 10)),
        Evidence(lines(zero_variance_groups=[0.9] * 5 + [0.5] * 5)),
    ),
    "unmoved policy": (
        Evidence(lines(loss=[1.0] * 4), samples(log_ratio=[0.0] * N)),
        Evidence(lines(loss=[1.0] * 4), samples(log_ratio=spread(0.5))),
    ),
    "clipped updates": (
        Evidence(lines(clip_fraction=[0.0] * 5 + [0.5] * 5)),
        Evidence(lines(clip_fraction=[0.5] * 5 + [0.05] * 5)),
    ),
    "useless value function": (
        Evidence(lines(explained_variance=spread(-0.5, 0.2, count=20))),
        Evidence(lines(explained_variance=spread(0.4, 0.2, count=20))),
    ),
    "gradient explosion": (
        Evidence(lines(grad_norm=np.geomspace(1, 1000, 12).tolist())),
        Evidence(lines(grad_norm=[0.01] * 3 + spread(1, 0.1, count=9))),
    ),
    "first ratio": (
        Evidence(lines(ratio=[1.02, 1.0], approx_kl=[0.0, 0.0])),
        Evidence(lines(ratio=[1.0000002, 1.02], approx_kl=[1e-7, 0.1])),
    ),
}


@pytest.mark.parametrize("symptom", list(CASES))
def test_a_symptom_is_found_where_it_is_and_only_there(symptom):
    ill, healthy = ({finding.symptom for finding in diagnose(evidence)} for evidence in CASES[symptom])
    assert symptom in ill
    assert symptom not in healthy


def test_every_detector_has_a_case():
    assert {known.symptom for known in DETECTORS} == set(CASES)


def test_absent_evidence_keeps_every_detector_silent():
    empty = SimpleNamespace(samples=[], preferences=[])
    bare = SimpleNamespace(samples=[{"prompt": "a", "gold": None}], preferences=[{"row": 0, "chosen_logp": None}])
    for evidence in (Evidence(), Evidence([{"step": 1, "loss": 0.5}], empty, empty), Evidence([], bare, bare)):
        assert diagnose(evidence) == []


def test_metrics_that_are_none_or_not_finite_are_no_evidence_and_such_records_are_refused():
    rows = [{"step": i, "explained_variance": value} for i, value in enumerate([None, float("nan"), -1.0])]
    assert Evidence(rows).series("explained_variance").tolist() == [-1.0]
    with pytest.raises(UserError, match=rf"ended of row {N - 1} \(training seed 0\) is nan"):
        diagnose(against(samples(ended=[1.0] * N), samples(ended=[0.0] * (N - 1) + [float("nan")])))


def test_other_prompts_are_no_baseline():
    before, after = CASES["missing end tokens"][0].baseline, CASES["missing end tokens"][0].records
    renamed = SimpleNamespace(samples=[{**row, "prompt": "other"} for row in before.samples], preferences=[])
    assert diagnose(against(renamed, after)) == []


def test_a_large_fall_of_few_prompts_is_chance():
    """Three of five prompts: a fall of 0.2 or more, whose interval reaches 0."""
    before = SimpleNamespace(samples=table(prompt=list("abcde"), ended=[1.0] * 5), preferences=[])
    after = SimpleNamespace(samples=table(prompt=list("abcde"), ended=[0.0, 1.0, 1.0, 1.0, 1.0]), preferences=[])
    assert diagnose(against(before, after)) == []


@pytest.mark.parametrize(
    ("responses", "far", "severity"),
    [
        (8192, 10, "warning"),  # of 100 answers
        (8192, 40, "serious"),
        (8192, 4, None),
        (60_000, 40, None),  # so many would have held some
        (None, 40, None),  # nobody counted
    ],
)
def test_mass_counts_where_so_many_responses_hold_next_to_none(responses, far, severity):
    ratios = [8.5] * far + [1.0] * (N - far)
    taught = {"responses": responses, "sampled_tokens": 0}
    symptoms = {
        one.symptom: one.severity for one in diagnose(Evidence(records=samples(log_ratio=ratios), training=taught))
    }
    assert symptoms.get("mass where data say nothing") == severity
