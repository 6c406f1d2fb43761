"""A judge held against people: what is counted, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_fixture import bare, comparison, typed

from preflab.disk.files import write_jsonl
from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.contests import by_gold, play
from preflab.eval.comparison.human_sentences import contested, human_sentences
from preflab.eval.comparison.humans import hold_against
from preflab.eval.comparison.record import summarise_comparison
from preflab.eval.comparison.sentences import headline, sentences
from preflab.eval.judges import HumanVerdicts
from preflab.eval.pipeline.judging import ByAnswers
from preflab.eval.records.figures import Figure
from preflab.eval.records.humans import HumanPair, Humans
from preflab.eval.records.records import Records
from preflab.eval.report import table
from preflab.eval.statistics import prediction_powered

PROMPTS = 60


def answers(name, gold, seed=0, same=()):
    """Answers of known gold reward, each its own text but for those that are the `same` with everybody."""
    rows = []
    for at, value in enumerate(gold):
        text = f"same {at}" if at in same else f"{name} {seed} {at}"
        figures = {"length": 5, "ended": True, "log_ratio": 0.5, "kl": 0.5, "entropy": 1.0, "proxy": None}
        rows.append({"prompt": f"p{at}", "response": text, **figures, "gold": float(value)})
    return Records(rows, [])


def contestants(seeds=1, same=()):
    """A start, and two methods of which the judge likes one in four answers of five."""
    rng, found = np.random.default_rng(seeds), []
    for name, mean in (("sft", 0.0), ("a", 1.2), ("b", 0.0)):
        golds = [
            np.where(np.isin(np.arange(PROMPTS), same), 0.0, mean + rng.normal(size=PROMPTS)) for _ in range(seeds)
        ]
        found.append(Contestant(name, [answers(name, gold, seed, same) for seed, gold in enumerate(golds)]))
    return found


def panel(tmp_path, rows):
    write_jsonl(tmp_path / "v.jsonl", rows)
    return ByAnswers(HumanVerdicts(tmp_path / "v.jsonl"))


def verdict(first, second, at, said, seed=0, **fields):
    texts = (one.records[seed].samples[at] for one in (first, second))
    prompt, (one, other) = f"p{at}", (row["response"] for row in texts)
    return {"prompt": prompt, "first": one, "second": other, "verdict": said, **fields}


def held(found, people):
    return hold_against(found, play(found, by_gold), people)


def test_a_pairs_win_rate_is_corrected_by_what_people_say_of_it(tmp_path):
    sft, a, b = contestants(same=range(50, PROMPTS))
    judged = by_gold(a.records[0], b.records[0])
    said = {at: "second" if at % 3 == 0 else "first" if judged[at] == 1 else "second" for at in range(25)}
    rows = [verdict(a, b, at, word) for at, word in said.items()]
    # On equal answers nobody need say anything, and what is said counts for nothing.
    rows += [verdict(a, b, 55, "first"), {"prompt": "p1", "first": "x", "second": "y", "verdict": "tie"}]
    found = held([sft, a, b], panel(tmp_path, rows))
    assert (found.name, found.verdicts, found.unmatched) == ("human verdicts (v.jsonl)", 27, 2)
    [pair] = found.pairs
    human = np.full(PROMPTS, np.nan)
    human[:25] = [float(word == "first") for word in said.values()]
    alike = np.arange(PROMPTS) >= 50
    expected = prediction_powered(judged, human, alike=alike[None])
    assert (pair.first, pair.second, pair.verdicts, pair.seeds, pair.of_seeds) == ("a", "b", 25, 1, 1)
    assert pair.corrected == Figure.of(expected.estimate)
    assert pair.weight == expected.weight
    assert pair.judged.mean == pytest.approx(judged.mean())
    assert pair.human.mean == pytest.approx((human[:25].mean() * 50 + 5) / PROMPTS)
    assert found.agreement.mean == pytest.approx(np.mean(human[:25] == judged[:25]))
    assert found.agreement.n == 25


def test_order_of_answers_and_of_methods_changes_nothing(tmp_path):
    sft, a, b = contestants()
    words = ["first", "second", "tie"] * 8
    rows = [verdict(a, b, at, word) for at, word in enumerate(words)]
    turn = {"first": "second", "second": "first", "tie": "tie"}
    turned = [verdict(b, a, at, turn[word]) for at, word in enumerate(words)]
    found, other = held([sft, a, b], panel(tmp_path, rows)), held([sft, a, b], panel(tmp_path, turned))
    assert found == other
    swapped = held([sft, b, a], panel(tmp_path, rows))
    assert swapped.agreement == found.agreement
    assert swapped.pairs[0].corrected.mean == pytest.approx(1 - found.pairs[0].corrected.mean)
    assert swapped.pairs[0].corrected.low == pytest.approx(1 - found.pairs[0].corrected.high)


def test_seeds_of_which_people_judged_too_little_are_left_out_and_said_to_be(tmp_path):
    sft, a, b = contestants(seeds=3)
    rows = [verdict(a, b, at, "first", seed) for seed, many in ((0, 9), (1, 12), (2, 10)) for at in range(many)]
    [pair] = held([sft, a, b], panel(tmp_path, rows)).pairs
    assert (pair.verdicts, pair.seeds, pair.of_seeds, pair.human.n) == (31, 2, 3, 22)
    judged = np.stack([by_gold(a.records[seed], b.records[seed]) for seed in (1, 2)])
    assert pair.judged.mean == pytest.approx(judged.mean())
    humans = held([sft, a, b], panel(tmp_path, rows[:9]))
    [few] = humans.pairs
    assert (few.verdicts, few.seeds, few.corrected, few.better) == (9, 0, None, None)
    assert "a against b: 9 human verdicts, 10 or more" in " ".join(human_sentences(humans))


def test_several_annotators_of_a_pair_count_once_by_their_mean_and_that_is_said(tmp_path):
    sft, a, b = contestants()
    rows = [verdict(a, b, at, "first", annotator="Ada") for at in range(20)]
    rows += [verdict(b, a, at, ("first", "second")[at % 2], annotator="Bob") for at in range(20)]
    found = held([sft, a, b], panel(tmp_path, rows))
    [pair] = found.pairs
    assert (found.verdicts, pair.verdicts, pair.human.n) == (20, 20, 20)
    assert pair.human.mean == pytest.approx(0.75)
    judged = by_gold(a.records[0], b.records[0])[:20]
    majority = np.where(np.arange(20) % 2 == 0, 0.5, 1)
    assert found.agreement.mean == pytest.approx(np.mean(judged == majority))
    said = human_sentences(found)[1]
    assert said.startswith("Two or more of 2 annotators judged 20 of the pairs in human verdicts (v.jsonl); ")
    assert "two of them agree on 50.0 % [" in said
    assert said.endswith("; kappa 0.00. A pair counts once, by the mean of its verdicts.")


def test_nothing_known_of_what_was_compared_is_said(tmp_path):
    found = held(contestants(), panel(tmp_path, [{"prompt": "q", "first": "x", "second": "y", "verdict": "tie"}]))
    assert (found.agreement, found.kappa, found.pairs, found.unmatched) == (None, None, (), 1)
    assert human_sentences(found) == [
        "No answers compared here are among the 1 pairs in human verdicts (v.jsonl).",
        "1 of the 1 pairs in human verdicts (v.jsonl) are no answers of two methods here, and count for nothing.",
    ]


def test_a_comparison_says_first_what_people_say_and_the_judge_decides(tmp_path):
    found = contestants()
    people = panel(tmp_path, [verdict(found[1], found[2], at, ("first", "second")[at % 2]) for at in range(40)])
    asked = {"baseline": [[found[0].records[0]]], "decide": by_gold}
    plain, with_people = (summarise_comparison(found, **asked, people=who) for who in (None, people))
    assert with_people.pairwise == plain.pairwise
    assert plain.humans is None
    assert with_people.verdict[0].startswith("The judge agrees with people on ")
    assert with_people.verdict[1].startswith("a against b, win rate: ")
    assert with_people.verdict[-len(plain.verdict) :] == plain.verdict
    assert "a is better than b" in with_people.headline
    doubt = "People do not bear this out: the win rate of a over b is "
    assert doubt in with_people.headline
    assert doubt not in plain.headline


# ---- words -------------------------------------------------------------------------------------------


def rate(low, high):
    return Figure((low + high) / 2, low, high, 60)


def held_pair(corrected, **fields):
    first = {"first": "dpo", "second": "ppo", "verdicts": 60, "seeds": 1, "of_seeds": 1}
    rates = {"judged": rate(0.5, 0.6), "human": rate(0.3, 0.7), "corrected": corrected, "weight": 0.5}
    return HumanPair(**{**first, **rates, **fields})


def summary(*pairs):
    humans = Humans(
        name="v", verdicts=60, unmatched=0, annotators=None, agreement=rate(0.7, 0.9), kappa=None, pairs=pairs
    )
    return replace(typed(comparison()), humans=humans)


@pytest.mark.parametrize(
    ("corrected", "said"),
    [
        (rate(0.2, 0.4), ""),
        (rate(0.3, 0.52), "People do not bear this out: the win rate of ppo over dpo is 59.0 % [48.0, 70.0] once"),
        (rate(0.55, 0.75), "People contradict this: the win rate of ppo over dpo is 35.0 % [25.0, 45.0] once"),
    ],
    ids=["borne out", "left open", "contradicted"],
)
def test_the_headline_says_where_people_do_not_bear_it_out(corrected, said):
    """The judge finds ppo better than dpo, the second of the pair."""
    made = summary(held_pair(corrected))
    assert contested(made).startswith(said)
    assert bool(contested(made)) == bool(said)
    assert (said in headline(made, "sft")) or not said
    for primary in ("gold", "equal-kl"):
        assert contested(made) in headline(replace(made, primary=primary), "sft")


def test_a_difference_that_the_judge_does_not_see_is_no_matter_of_the_headline():
    """Between dpo and ipo it sees none; nor does anybody of methods that people did not judge enough of."""
    seen = held_pair(rate(0.6, 0.8), second="ipo")
    assert contested(summary(seen)) == ""
    assert "; dpo is better." in " ".join(sentences(summary(seen)))
    few = held_pair(None, judged=None, human=None, weight=None, seeds=0)
    assert contested(summary(few)) == ""
    assert contested(typed(bare())) == ""


def test_what_win_rates_are_about_is_said_where_it_is_less_than_the_methods():
    def said(**fields):
        return human_sentences(summary(held_pair(rate(0.2, 0.4), **fields)).humans)[1]

    assert "training seed" not in said()
    assert "training seed" not in said(seeds=3, of_seeds=3)
    assert ", about the models of one of 3 training seeds; ppo is better." in said(of_seeds=3)
    assert ", about those of 2 of 3 training seeds" in said(seeds=2, of_seeds=3)
    assert "55.0 % [50.0, 60.0] by the judge, 50.0 % [30.0, 70.0] by 60 human verdicts alone, 30.0 %" in said()


def test_the_note_under_the_table_names_agreement_where_people_judged():
    assert "The judge agrees with people on 80.0 % [70.0, 90.0] of 60 pairs" in table.markdown_table(summary())
    assert "agrees" not in table.markdown_table(typed(bare()))
