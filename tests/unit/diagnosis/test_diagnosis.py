"""Detectors on tables made by hand; real runs are in tests/conformance/test_diagnosis_runs.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evidence import (
    LENGTHS,
    LONGER,
    N,
    against,
    finding,
    found,
    lines,
    over_training,
    pairs,
    samples,
    spread,
    table,
    words,
)

from docs.make_diagnosis_page import page
from preflab.eval.diagnosis import DETECTORS, Detector, Evidence, detector, diagnose, merge
from preflab.eval.diagnosis.base import change, training_shift


def test_reward_hacking_without_gold_is_told_by_heldout_accuracy():
    after, before = samples(proxy=spread(1, seed=2)), samples(proxy=spread(0))
    wrong = pairs(chosen_score=[0.0, 0.0, 0.0, 1.0] * 25, rejected_score=0.5).preferences
    after.preferences = wrong
    assert found(against(before, after), "reward hacking")
    after.preferences = [{**row, "chosen_score": 1.0} for row in wrong]
    assert found(against(before, after), "reward hacking") is None


def test_length_exploitation_is_serious_where_gold_did_not_rise():
    gold = {"rising": spread(5, seed=4), "level": spread(0, seed=4)}
    evidence = {
        name: against(
            samples(length=LENGTHS, proxy=LENGTHS, gold=spread(0)), samples(length=LONGER, proxy=LONGER, gold=values)
        )
        for name, values in gold.items()
    }
    severities = {name: found(e, "length exploitation").severity for name, e in evidence.items()}
    assert severities == {"rising": "warning", "level": "serious"}


def test_displacement_is_not_claimed_of_runs_that_never_saw_a_pair():
    before, after = (
        pairs(chosen_logp=spread(-10 - fall), rejected_logp=spread(-10 - fall), chosen_length=10) for fall in (0, 20)
    )
    assert found(against(before, after), "likelihood displacement") is None
    logged = lines(chosen_logps=[-10.0, -30.0], rejected_logps=[-10.0, -30.0])
    assert found(Evidence(logged, after, before), "likelihood displacement").severity == "serious"
    assert found(Evidence(logged, before, before), "likelihood displacement") is None
    sampled = [{**row, "response_length": 10.0} for row in logged]
    assert found(Evidence(sampled, after, before), "likelihood displacement") is None


def test_calibration_is_not_judged_without_a_scale_or_of_a_policy():
    scores = {"chosen_score": [5.0, 5.0, 5.0, -5.0] * 25, "rejected_score": 0.0}
    assert found(Evidence(records=pairs(**scores)), "miscalibrated reward model") is None
    policy = pairs(**scores, chosen_logp=-3.0)
    assert found(Evidence(records=policy, scale=1.0), "miscalibrated reward model") is None


def test_kl_above_twice_its_target_is_a_warning():
    records = samples(log_ratio=spread(5, 1), length=40)
    assert found(Evidence(records=records, settings={"kl_target": 2.0}), "KL blow-up").severity == "warning"
    assert found(Evidence(records=records, settings={"kl_target": 4.0}), "KL blow-up") is None


def test_kl_of_one_word_answers_is_no_blow_up():
    assert found(Evidence(records=samples(log_ratio=spread(2, 0.1), length=1)), "KL blow-up") is None


def test_the_exact_kl_is_preferred_to_its_estimate():
    records = samples(log_ratio=spread(20, 3), kl=spread(2, 0.3), length=10)
    assert found(Evidence(records=records), "KL blow-up") is None


def test_negative_kl_and_blow_up_are_found_while_training():
    falling = lines(kl=spread(-2, 0.2, count=20), response_length=[10.0] * 20)
    assert "in training" in found(Evidence(falling), "negative KL").evidence
    large = lines(kl=spread(30, 0.2, count=20), response_length=[10.0] * 20)
    assert "end of training" in found(Evidence(large), "KL blow-up").evidence


def test_a_reference_mismatch_shows_in_the_first_rollout_alone():
    rollout = {"rollout_epochs": 2, "rollout_prompts": 64, "per_device_train_batch_size": 32}
    logged = [{"step": 4, "kl": 1.0, "response_length": 10.0}]
    assert found(Evidence(logged, settings=rollout), "reference mismatch")
    later = [{"step": 5, "kl": 1.0, "response_length": 10.0}]
    assert found(Evidence(later, settings=rollout), "reference mismatch") is None
    parts = {**rollout, "train_batch_size": 32, "per_device_train_batch_size": "auto"}
    assert found(Evidence(logged, settings=parts), "reference mismatch")
    assert found(Evidence(logged), "reference mismatch") is None


def test_the_same_long_answer_to_every_prompt_is_a_collapse_and_a_short_one_is_not():
    before = samples(response=words(50))
    long, short = ["so this is my answer"] * N, ["yes"] * N
    finding = found(against(before, samples(response=long)), "mode collapse")
    assert finding.severity == "serious"
    assert "several prompts" in finding.evidence
    assert found(against(before, samples(response=short)), "mode collapse") is None


def test_distinct_bigrams_are_compared_at_equal_length():
    """Twice the text from the same words has fewer distinct bigrams in all, and is no collapse."""
    before = samples(response=words(8, length=6))
    assert found(against(before, samples(response=words(8, length=24, seed=1))), "mode collapse") is None
    narrow = found(against(before, samples(response=words(3, length=6, seed=1))), "mode collapse")
    assert "distinct-2" in narrow.evidence


def test_scripts_without_spaces_repeat_themselves_too():
    before, after = samples(response=["日本語の文章"] * N), samples(response=["日本日本日本"] * N)
    # Pairs of characters: 日本 three times and 本日 twice; three of five stood before.
    assert "from 0 to 0.6" in found(against(before, after), "repetition").evidence


def test_entropy_and_end_tokens_are_read_from_the_metrics_without_a_baseline():
    logged = lines(entropy=np.linspace(2, 0.1, 16).tolist(), ended=np.linspace(1, 0.2, 16).tolist())
    assert {"mode collapse", "missing end tokens"} <= {finding.symptom for finding in diagnose(Evidence(logged))}


def test_one_reward_for_everything_has_no_variance():
    assert found(Evidence(lines(reward=[2.0] * 3)), "no reward variance")
    assert found(Evidence(lines(reward=[2.0, 2.0, 2.1])), "no reward variance") is None
    assert found(against(samples(proxy=1.0), samples(proxy=1.0)), "no reward variance")
    assert found(against(samples(proxy=1.0), samples(proxy=2.0)), "no reward variance") is None


def test_a_policy_trained_on_demonstrations_is_its_own_reference():
    assert found(Evidence(lines(nll=[3.0, 2.0]), samples(log_ratio=[0.0] * N)), "unmoved policy") is None


def scored(leads, **columns):
    return SimpleNamespace(
        samples=[], preferences=table(row=list(range(len(leads))), chosen_score=leads, rejected_score=0.0, **columns)
    )


def test_calibration_says_in_which_direction_and_how_badly():
    right = scored([5.0, 5.0, 5.0, -5.0] * 25)
    observed = {
        scale: found(Evidence(records=right, scale=scale), "miscalibrated reward model") for scale in (1.0, 0.4, 0.01)
    }
    # σ(5) = 0.99, σ(2) = 0.88 and σ(0.05) = 0.51, of which 0.75 are right.
    assert [observed[scale].severity for scale in (1.0, 0.4, 0.01)] == ["serious", "warning", "serious"]
    assert [" more than" in observed[scale].evidence for scale in (1.0, 0.4, 0.01)] == [True, True, False]


def test_a_gap_of_calibration_on_few_pairs_is_chance():
    assert found(Evidence(records=scored([5.0, 5.0, 5.0, -5.0, 5.0]), scale=1.0), "miscalibrated reward model") is None


@pytest.mark.parametrize(
    ("symptom", "warning", "serious"),
    [
        (
            "mode collapse",
            against(samples(entropy=spread(2, 0.2)), samples(entropy=spread(0.4, 0.1))),
            against(samples(entropy=spread(2, 0.2)), samples(entropy=spread(0.1, 0.02))),
        ),
        (
            "repetition",
            against(samples(response=words(50)), samples(response=["a b a b c d e f"] * N)),
            against(samples(response=words(50)), samples(response=["a b a b a b a b"] * N)),
        ),
        (
            "uninformative reward model",
            Evidence(records=scored([1.0, -1.0] * 50)),
            Evidence(records=scored([1.0, -1.0, -1.0, -1.0] * 25)),
        ),
        (
            "missing end tokens",
            against(samples(ended=[1.0] * N), samples(ended=[1.0, 1.0, 1.0, 0.0] * 25)),
            against(samples(ended=[1.0] * N), samples(ended=[1.0, 0.0, 0.0, 0.0] * 25)),
        ),
        (
            "clipped updates",
            Evidence(lines(clip_fraction=[0.5] * 10)),
            Evidence(lines(clip_fraction=[0.9] * 10)),
        ),
    ],
    ids=["mode-collapse", "repetition", "uninformative", "missing-ends", "clipped"],
)
def test_severity_grows_with_the_symptom(symptom, warning, serious):
    assert (found(warning, symptom).severity, found(serious, symptom).severity) == ("warning", "serious")


# ---- changes -----------------------------------------------------------------------------------------


def test_over_optimisation_says_when_the_policy_was_best():
    [finding] = diagnose(over_training([0, 2, 1, 1], [0, 1, 2, 3]))
    assert finding.severity == "warning"
    assert finding.evidence.startswith("the gold reward was 2 at step 10 and 1 at the end (change -1.")
    assert finding.evidence.endswith("while the training reward went from 1 to 3")
    [finding] = diagnose(over_training([0, 2, 1, -0.5], [0, 1, 2, 3]))
    assert finding.severity == "serious"
    start, peak, end = (samples(gold=spread(mean, deviation)) for mean, deviation in ((0, 1), (2, 0.1), (1.95, 0.1)))
    assert diagnose(Evidence(course=[(0, start), (1, peak), (2, end)])) == []  # beyond chance, and too little to matter
    assert diagnose(over_training([0, 2], [0, 1])) == []


def test_the_best_of_many_snapshots_is_not_the_best_by_chance():
    """Snapshots that are all alike: the one that looks best stands above the end in most runs, and is no finding."""
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        rows = [samples(gold=draw.standard_normal(N).tolist()) for _ in range(12)]
        found += bool(diagnose(Evidence(course=list(enumerate(rows)))))
    assert found <= 10  # 5 % of 200


def test_a_change_is_paired():
    """Prompts differ by 10, the change is 1 on each: unpaired, it would drown."""
    before = np.linspace(0, 100, 30)
    shift = change(before, before + 1)
    assert shift.rose(0.9)
    assert not shift.rose(1.1)
    assert not shift.fell()
    assert (shift.change.low, shift.change.high) == pytest.approx((1, 1))


def test_a_change_in_training_is_welchs_interval():
    """Against scipy's own, on quarters of 8 lines."""
    from scipy.stats import ttest_ind

    values = np.random.default_rng(0).normal(np.linspace(0, 3, 32), 1)
    shift = training_shift(Evidence(lines(loss=values.tolist())), "loss")
    expected = ttest_ind(values[-8:], values[:8], equal_var=False).confidence_interval()
    np.testing.assert_allclose([shift.change.low, shift.change.high], expected, rtol=1e-9)
    assert (shift.before, shift.after) == pytest.approx((values[:8].mean(), values[-8:].mean()))


def test_few_lines_tell_no_change():
    assert training_shift(Evidence(lines(loss=[9.0, 8.0, 7.0, 1.0, 1.0, 1.0, 1.0])), "loss") is None
    assert training_shift(Evidence(lines(loss=[2.0] * 4 + [1.0] * 4)), "loss").fell(1.0)


def test_findings_are_plain_data_and_serious_ones_come_first():
    evidence = Evidence(
        lines(clip_fraction=[0.5] * 10, zero_variance_groups=[1.0] * 10, explained_variance=[-1.0] * 10)
    )
    assert [f.severity for f in diagnose(evidence)] == ["serious", "warning", "warning"]
    assert all(isinstance(text, str) for text in vars(diagnose(evidence)[0]).values())


def test_seeds_are_merged_by_symptom():
    first, second = [finding("a"), finding("b")], [finding("a", "serious", "worse")]
    assert merge([first, second]) == [
        finding("a", "serious", "worse"),
        finding("b", "warning", "numbers (in 1 of 2 seeds)"),
    ]
    assert merge([[], []]) == []


def test_a_symptom_has_one_detector():
    taken = DETECTORS[0]
    texts = dict.fromkeys(("explanation", "looks_at", "threshold", "advice"), "")
    with pytest.raises(ValueError, match=f"{taken.symptom!r} has a detector already"):
        detector(taken.symptom, **texts)(lambda evidence: None)


def test_detectors_say_what_they_do():
    for known in DETECTORS:
        assert isinstance(known, Detector)
        for text in (known.explanation, known.looks_at, known.threshold, known.advice):
            assert len(text) > 20
            assert "  " not in text
            assert "{" not in text


def test_the_page_is_what_the_detectors_say():
    path = Path(__file__).parents[3] / "docs" / "diagnosis.md"
    assert path.read_text(encoding="utf-8") == page(), "run: python docs/make_diagnosis_page.py > docs/diagnosis.md"


def test_nothing_here_imports_torch():
    code = "import sys, preflab.eval.diagnosis; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
