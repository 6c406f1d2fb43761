"""A heading of a few words claims no more than the headline, whatever came out."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixture import bare, comparison, typed

from preflab.eval.comparison.finding import MOST_WORDS, heading
from preflab.eval.comparison.sentences import headline
from preflab.eval.records.comparison import Comparison, PairTest, Untested
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import EqualKl, Frontier
from preflab.eval.records.humans import HumanPair, Humans

START = "sft"
BARE = typed(bare())
NAMES = ("a", "bb", "my method", "one of a name that has more than eight words in it", "e-5")
SIZE = Figure(0.5, 0.4, 0.6, 100)


def pair(first: str, second: str, verdict: str) -> PairTest:
    sign = {"first": 1.0, "second": -1.0, "none": 0.01}[verdict]
    difference = Figure(sign, sign - 0.1, sign + 0.1, 100)
    same = dict.fromkeys(("win_rate", "wins", "ties", "losses"), SIZE)
    p = 0.4 if verdict == "none" else 0.001
    return PairTest(
        first=first, second=second, measure="gold_reward", difference=difference, **same, p=p, p_adjusted=p,
        detectable=0.2, verdict=verdict,
    )  # fmt: skip


def compared(names, pairs, **fields) -> Comparison:
    methods = {name: replace(BARE.methods["dpo"], figures={"response_length": SIZE}) for name in (START, *names)}
    return replace(BARE, methods=methods, pairwise=tuple(pairs), **fields)


def of(verdicts: dict[tuple[str, str], str], **fields) -> Comparison:
    names = dict.fromkeys(name for both in verdicts for name in both if name != START)
    return compared(names, [pair(*both, verdict) for both, verdict in verdicts.items()], **fields)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({(START, "dpo"): "second"}, "dpo beats sft"),
        ({(START, "dpo"): "first"}, "dpo is worse than sft"),
        ({(START, "dpo"): "none"}, "No detectable difference between dpo and sft"),
        ({("dpo", "ppo"): "first"}, "dpo beats ppo"),
        ({("dpo", "ppo"): "none"}, "No detectable difference between dpo and ppo"),
        ({("a", "b"): "first", ("a", "c"): "first", ("b", "c"): "none"}, "a beats both others"),
        ({("a", "b"): "none", ("a", "c"): "none", ("b", "c"): "first"}, "No detectable difference between a and b"),
        ({("a", "b"): "none", ("a", "c"): "none", ("b", "c"): "none"}, "No detectable difference among 3 methods"),
        ({("a", "b"): "first", ("b", "c"): "first", ("a", "c"): "second"}, "Methods beat one another in a circle"),
        ({("a", "b"): "first", ("b", "c"): "first", ("a", "c"): "none"}, "a beats 1 of 2 others"),
        ({("a", "b"): "first", ("b", "c"): "none"}, "Not every two methods were judged"),
    ],
)
def test_the_finding_in_a_few_words(verdicts, said) -> None:
    assert heading(of(verdicts), START).text == said


def test_nothing_is_claimed_where_nothing_was_tested() -> None:
    assert heading(compared((), []), START) == ("No policy was compared", ())
    assert heading(compared(("a", "b"), []), START) == ("Nobody judged the answers", ())
    left = compared(("a", "b"), [], untested=(Untested(first="a", second="b", reason="one prompt"),))
    assert heading(left, START) == ("No two methods could be tested", ())


def test_the_scope_stands_beside_it() -> None:
    one = of({("a", "b"): "first"}, training_seeds=1, redrawn=("sft",))
    assert heading(one, START).scope == ("these trained models only",)
    assert heading(replace(one, training_seeds=3), START).scope == ("methods, 3 replications",)
    common = replace(one, training_seeds=3, common=("sft", "reward model"))
    assert heading(common, START).scope == ("methods on this one sft and this one reward model, 3 seeds",)
    doubted = replace(one, looks=4, judge_is_kin=True)
    assert heading(doubted, START).scope[1:] == (
        "exploratory: test prompts used 4 times",
        "judge akin to the reward model",
    )


def test_people_who_do_not_bear_it_out_take_the_claim_back() -> None:
    judged = of({("a", "b"): "first"})
    found = HumanPair(
        first="a", second="b", verdicts=40, seeds=1, of_seeds=1, judged=SIZE, human=SIZE, corrected=SIZE, weight=0.5,
    )  # fmt: skip
    people = Humans(name="v", verdicts=40, unmatched=0, annotators=None, agreement=None, kappa=None, pairs=(found,))
    assert heading(judged, START).text == "a beats b"
    assert heading(replace(judged, humans=people), START).text == "People do not confirm every finding"


def at_equal_kl(*rows: EqualKl) -> Comparison:
    drawn = Frontier(points=(), oracle=None, best_of_n=(), matched=(), matched_differences=(), equal_kl=rows)
    return of({("a", "b"): "first"}, primary="equal-kl", frontier=drawn)


def row(first: str, second: str, verdict: str) -> EqualKl:
    return EqualKl(
        first=first, second=second, low_kl=0.1, high_kl=2.0, difference=SIZE, p=0.01, p_adjusted=0.02, verdict=verdict,
        band=(),
    )  # fmt: skip


def test_where_equal_kl_is_the_endpoint_the_heading_is_about_it() -> None:
    assert heading(at_equal_kl(), START).text == "No two methods reach a common KL"
    assert heading(at_equal_kl(row("a", "b", "second")), START).text == "b beats a at equal KL"
    assert heading(at_equal_kl(row("a", "b", "none")), START).text == "No detectable difference at equal KL"
    three = row("a", "b", "first"), row("a", "c", "first"), row("b", "c", "none")
    assert heading(at_equal_kl(*three), START).text == "a beats all others at equal KL"
    assert heading(at_equal_kl(*three[1:]), START).text == "At equal KL, 1 of 2 pairs differ"


@st.composite
def outcomes(draw):
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=0, max_size=4))
    every = list(combinations((START, *names), 2))
    verdicts = draw(st.lists(st.sampled_from(["first", "second", "none", None]), min_size=len(every)))
    pairs = [pair(*both, verdict) for both, verdict in zip(every, verdicts, strict=False) if verdict]
    missing = tuple(Untested(first="a", second="b", reason="r") for _ in range(draw(st.integers(0, 1))))
    rows = tuple(row(p.first, p.second, p.verdict) for p in pairs if START not in (p.first, p.second))
    drawn = Frontier(points=(), oracle=None, best_of_n=(), matched=(), matched_differences=(), equal_kl=rows)
    return names, compared(
        names,
        pairs,
        untested=missing,
        training_seeds=draw(st.integers(1, 5)),
        redrawn=draw(st.sampled_from([(), ("sft",)])),
        common=draw(st.sampled_from([(), ("sft", "reward model")])),
        looks=draw(st.integers(1, 3)),
        judge_is_kin=draw(st.booleans()),
        primary=draw(st.sampled_from(["gold", "win-rate", "equal-kl"])),
        frontier=draw(st.sampled_from([None, drawn])),
    )


@settings(max_examples=300, deadline=None)
@given(outcomes())
def test_no_heading_is_long_or_claims_more_than_the_tests(found) -> None:
    names, summary = found
    text, scope = heading(summary, START)
    assert 0 < len(text.split()) <= MOST_WORDS
    better = {(p.winner, p.loser) for p in summary.pairwise if p.winner}
    sentence = headline(summary, START)
    for first in (START, *names):
        if text.startswith((f"{first} beats all", f"{first} beats both")):
            others = [name for name in names if name != first]
            assert summary.primary == "equal-kl" or all((first, other) in better for other in others)
        for second in (START, *names):
            if text.removesuffix(" at equal KL") == f"{first} beats {second}":
                assert (first, second) in better
            if text == f"No detectable difference between {first} and {second}":
                assert not {(first, second), (second, first)} & better
    if "beats" in text:
        assert "better" in sentence or "ahead" in sentence
    if summary.training_seeds == 1 and scope:
        assert "trained models only" in scope[0]
        assert "Of these trained models, one training seed each" in sentence


@pytest.mark.parametrize("key", ["pairwise", "ranking", "frontier", "methods", "judge", "baseline"])
def test_a_missing_section_leaves_a_heading(key) -> None:
    given_up = {"pairwise": [], "ranking": [], "methods": {}}.get(key)
    found = typed({**comparison(), key: given_up})
    assert 0 < len(heading(found, found.baseline or "").text.split()) <= MOST_WORDS
