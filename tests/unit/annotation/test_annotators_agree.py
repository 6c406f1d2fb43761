"""What is said of several annotators, and what becomes of their verdicts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from preflab.eval.annotation.agreement import NONE_SHARED, agreement_sentences, every_two
from preflab.eval.judges import HumanVerdicts, judge_sentences
from preflab.eval.judges.verdicts import Verdict, panel, preference_data
from preflab.eval.records.comparison import Judge
from preflab.eval.statistics import agreement

SAID = {"Ada": "111t2221", "Bob": "112t2211", "Cleo": "11......"}
WORDS = {"1": "first", "2": "second", "t": "tie"}


def verdicts(**said):
    """Return what each annotator said of pair 0, 1, …; a dot where nothing."""
    return [
        Verdict(f"p{at}", "a", "b", WORDS[word], name)
        for name, words in said.items()
        for at, word in enumerate(words)
        if word != "."
    ]


def test_two_annotators():
    [sentence] = agreement_sentences(verdicts(Ada=SAID["Ada"], Bob=SAID["Bob"]))
    # 6 of 8 alike; one verdict in 8 is a tie, so chance is 1/64 + (7/8)²/2.
    chance = 1 / 64 + (7 / 8) ** 2 / 2
    assert sentence.startswith("Of 8 pairs that two or more of 2 annotators judged, two of them agree on 75.0 % [")
    assert f"; kappa, which sets off chance, {(0.75 - chance) / (1 - chance):.2f} [" in sentence


def test_every_two_of_three():
    found = panel(verdicts(**SAID))
    assert [(two.annotators, two.agreement.share.n) for two in every_two(found)] == [
        (("Ada", "Bob"), 8),
        (("Ada", "Cleo"), 2),
        (("Bob", "Cleo"), 2),
    ]
    said = [[{"1": 1, "t": 0.5, "2": 0}[word] for word in SAID[name]] for name in ("Ada", "Bob")]
    assert every_two(found)[0].agreement == agreement(*said)
    sentences = agreement_sentences(verdicts(**SAID))
    assert len(sentences) == 4
    assert sentences[1].startswith("Ada and Bob: 75.0 % [")
    assert sentences[2].startswith("Ada and Cleo: 100.0 % [")


def test_annotators_who_share_nothing():
    apart = verdicts(Ada="12..", Bob="..12", Cleo="1...")
    assert [two.annotators for two in every_two(panel(apart))] == [("Ada", "Cleo")]
    assert agreement_sentences(verdicts(Ada="12..", Bob="..12")) == [NONE_SHARED]
    assert agreement_sentences([]) == [NONE_SHARED]


def test_all_ties_have_no_kappa():
    [sentence] = agreement_sentences(verdicts(Ada="tt", Bob="tt"))
    assert sentence.endswith("kappa, which sets off chance, not defined: all say tie.")


def test_pairs_of_one_prompt_are_counted_as_such():
    of_one = [Verdict("p", f"a{at}", f"b{at}", "first", name) for at in range(6) for name in "xy"]
    found = panel([*of_one, *(Verdict("q", "a", "b", "tie", name) for name in "xy")])
    assert found.prompts.tolist() == [0] * 6 + [1]


def test_as_a_judge_the_mean_counts_and_as_data_the_majority(tmp_path):
    path = tmp_path / "v.jsonl"
    given = verdicts(Ada="1112", Bob="1121", Cleo="12t.")
    path.write_text("".join(json.dumps(verdict._asdict()) + "\n" for verdict in given))
    judge = HumanVerdicts(path)
    prompts = [f"p{at}" for at in range(4)]
    assert judge.prefer(prompts, ["a"] * 4, ["b"] * 4) == pytest.approx([1, 2 / 3, 1 / 2, 1 / 2])
    assert judge.prefer(prompts, ["b"] * 4, ["a"] * 4) == pytest.approx([0, 1 / 3, 1 / 2, 1 / 2])
    rows, ties = preference_data(given)
    assert ([row["prompt"] for row in rows], ties) == (["p0", "p1"], 2)
    report = judge.report()
    assert (report["verdicts"], report["agreement"]["pairs"], report["agreement"]["annotators"]) == (4, 4, 3)
    assert report["agreement"]["observed"] == pytest.approx(np.mean([1, 1 / 3, 0, 0]))
    assert report["agreement"]["observed_low"] < 1 / 3 < report["agreement"]["observed_high"]
    said = judge_sentences(Judge(name="v", kind="compares", warning=None, report=report))
    assert any("a pair counts once, by the mean of its verdicts" in sentence for sentence in said)
