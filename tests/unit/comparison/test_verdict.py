"""What is said of a comparison follows from its tests alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
from report_fixture import bare, comparison, typed

from preflab.eval.comparison.contests import NO_SPREAD
from preflab.eval.comparison.sentences import headline, p_digits, sentences
from preflab.eval.records.comparison import PairTest
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import EqualKl, Frontier, MatchedDifference
from preflab.eval.records.tuning import Trial, Tuned


def figure(mean, half=0.1):
    return Figure(mean, mean - half, mean + half, 100)


def made(rewards, *, same=(), seeds=3, kl=None):
    """Methods of known reward; pairs in `same` do not differ beyond chance."""
    pairs = []
    for first, second in combinations(rewards, 2):
        difference = rewards[first] - rewards[second]
        alike = (first, second) in same
        pairs.append(
            PairTest(
                first=first,
                second=second,
                measure="gold_reward",
                difference=figure(difference),
                **dict.fromkeys(("win_rate", "wins", "ties", "losses"), figure(0.5)),
                p=0.4 if alike else 0.0001,
                p_adjusted=0.4 if alike else 0.0002,
                detectable=0.25,
                verdict="none" if alike else "first" if difference > 0 else "second",
            )
        )
    figures = {name: {"response_length": figure(10), "kl": kl and figure(kl[name])} for name in rewards}
    start = typed({**bare(), "training_seeds": seeds})
    methods = {name: replace(start.methods["sft"], figures=found) for name, found in figures.items()}
    return replace(start, methods=methods, pairwise=tuple(pairs))


def with_pair(made, first, second, **fields):
    """Return a comparison in which one test came out otherwise."""
    pairs = (replace(p, **fields) if (p.first, p.second) == (first, second) else p for p in made.pairwise)
    return replace(made, pairwise=tuple(pairs))


def test_one_method_is_better_than_all():
    said = headline(made({"sft": 0.0, "dpo": 1.0, "ppo": 0.5}, kl={"sft": 0, "dpo": 2.9, "ppo": 1.1}), "sft")
    assert said == "dpo is better than ppo (KL, nats: dpo 2.90, ppo 1.10). Against sft: dpo and ppo better."


def test_no_detectable_difference_is_a_verdict():
    said = headline(made({"sft": 0.0, "dpo": 1.0, "ppo": 0.9}, same={("dpo", "ppo")}), "sft")
    assert said == "No detectable difference between dpo and ppo. Against sft: dpo and ppo better."


def test_those_behind_the_leaders_are_named():
    said = headline(made({"sft": 1.0, "a": 2.0, "b": 1.9, "c": 0.0}, same={("a", "b")}), "sft")
    assert said == "No detectable difference between a and b; c worse. Against sft: a and b better; c worse."
    # Worse than one of them is not worse than both, nor is worse than one that is behind itself.
    said = headline(made({"sft": 1.0, "a": 2.0, "b": 1.9, "c": 0.0}, same={("a", "b"), ("b", "c")}), "sft")
    assert said.startswith("No detectable difference between a and b; c worse than a. Against")
    same = {("a", "b"), ("a", "d"), ("b", "d")}
    said = headline(made({"sft": 1.0, "a": 2.0, "b": 1.9, "c": 1.5, "d": 0.0}, same=same), "sft")
    assert said.startswith("No detectable difference between a and b; c worse; d worse than c. Against")


def test_nothing_is_said_of_what_nobody_judged():
    found = made({"sft": 0.0, "a": 2.0, "b": 1.9, "c": 1.0}, same={("sft", "b")})

    def without(*left_out):
        kept = tuple(pair for pair in found.pairwise if (pair.first, pair.second) not in left_out)
        return headline(replace(found, pairwise=kept), "sft")

    assert without(("a", "b")) == (
        "Nobody judged a against b; c worse. Against sft: a and c better; b no detectable difference."
    )
    assert without(("sft", "b")).endswith("Against sft: a and c better; b not judged.")
    assert without(("a", "c")).startswith("a is better than b; not judged against c. Against")


def test_what_the_leader_is_not_clearly_better_than_is_said():
    said = headline(made({"sft": 0.0, "a": 2.0, "b": 1.0, "c": 0.5}, same={("a", "b")}), "sft")
    assert said.startswith("No detectable difference between a and b; c worse.")
    said = headline(made({"sft": 0.0, "a": 2.0, "b": 1.5, "c": 1.0, "d": 0.9}, same={("a", "c"), ("a", "d")}), "sft")
    assert said.startswith("a is better than b; no detectable difference to c and d.")


def test_a_circle_has_no_best():
    circle = made({"sft": 0.0, "a": 3.0, "b": 2.0, "c": 1.0})
    assert "there is no best" in headline(with_pair(circle, "a", "c", verdict="second"), "sft")
    aside = made({"sft": 0.0, "a": 3.0, "b": 2.0, "c": 1.0, "d": 1.5}, same={("a", "d"), ("b", "d"), ("c", "d")})
    assert "there is no best" in headline(with_pair(aside, "a", "c", verdict="second"), "sft")


@pytest.mark.parametrize(
    ("reward", "same", "word"),
    [(1.0, (), "better"), (-1.0, (), "worse"), (0.1, {("sft", "dpo")}, "no detectable difference")],
)
def test_a_single_method_is_held_against_the_start(reward, same, word):
    assert headline(made({"sft": 0.0, "dpo": reward}, same=same), "sft") == f"Against sft: dpo {word}."


def test_one_seed_is_said_to_be_one():
    about = "Of these trained models, one training seed each: "
    assert headline(made({"sft": 0.0, "dpo": 1.0}, seeds=1), "sft").startswith(about)
    assert "trained models" not in headline(made({"sft": 0.0, "dpo": 1.0}), "sft")


def test_without_a_judge_or_a_policy_nothing_is_claimed():
    nobody = made({"sft": 0.0, "dpo": 1.0})
    assert headline(replace(nobody, pairwise=()), "sft").startswith("Nobody judged")
    scorer = replace(nobody.methods["dpo"], figures={})
    said = headline(replace(nobody, methods={"reward": scorer}, pairwise=()), "reward")
    assert said == "No policy was compared."


def test_a_sentence_stands_for_every_pair_with_its_winner_first():
    first, second, third = sentences(made({"sft": 0.0, "dpo": 1.0, "ppo": 0.9}, same={("dpo", "ppo")}))
    assert first == "dpo beats sft: gold reward +1.00 [+0.90, +1.10], corrected p below .001."
    assert second == "ppo beats sft: gold reward +0.90 [+0.80, +1.00], corrected p below .001."
    assert third == (
        "No detectable difference between dpo and ppo: gold reward +0.10 [+0.00, +0.20], corrected p = 0.400; "
        "a true difference of 0.25 would have been seen four times in five."
    )


def test_small_rewards_are_not_rounded_away():
    found = made({"sft": 0.0, "dpo": 1.0}, same={("sft", "dpo")})
    small = with_pair(found, "sft", "dpo", difference=figure(-0.00012, 0.00034), detectable=0.00049)
    assert sentences(small) == [
        "No detectable difference between sft and dpo: gold reward -0.0001 [-0.0005, +0.0002], corrected p = 0.400; "
        "a true difference of 0.0005 would have been seen four times in five."
    ]


def test_the_share_of_what_was_attainable_is_told_of_configured_settings():
    said = made({"sft": 0.0, "dpo": 1.0})
    start = typed(comparison()).frontier
    point = replace(start.points[0], method="dpo", setting={}, kl=figure(2.0), attainable=figure(0.8, 0.05))
    points = (point, replace(point, setting={"beta": 1.0}), replace(point, attainable=None))
    said = replace(said, frontier=replace(start, points=points))
    assert [text for text in sentences(said) if "attain" in text or "any policy" in text] == [
        "dpo has 80 % [75, 85] of the gold reward that any policy could have gained at its KL of 2.00 nats."
    ]


def test_a_sweep_over_two_units_is_said_to_match_nothing():
    said, frontier = made({"sft": 0.0, "dpo": 1.0, "ppo": 1.0}), typed(comparison()).frontier
    point = replace(frontier.points[0], method="dpo", setting={"beta": 0.1}, attainable=None)
    other = replace(point, method="ppo", setting={"kl_coefficient": 0.1})
    frontier = replace(frontier, equal_kl=())

    def told(*points):
        found = sentences(replace(said, frontier=replace(frontier, points=points)))
        return [text for text in found if "one objective" in text]

    (text,) = told(point, point, other)
    assert text.startswith("beta (dpo) and kl_coefficient (ppo) of one value are not one objective")
    assert told(point) == told(point, replace(other, setting={"share": 0.5})) == []


@pytest.mark.parametrize(
    ("p", "said"), [(0.0496, "0.0496"), (0.0499996, "0.0499996"), (0.05, "0.050"), (0.012, "0.012")]
)
def test_a_p_value_is_never_rounded_over_the_line(p, said):
    assert p_digits(p, 3) == said


def test_an_interval_that_disagrees_with_the_corrected_p_is_explained():
    found = made({"sft": 0.0, "a": 0.1, "b": 0.12}, same=[("sft", "a"), ("sft", "b"), ("a", "b")])
    found = with_pair(found, "sft", "a", difference=figure(0.1, 0.08), p=0.02, p_adjusted=0.06)
    assert any("of this pair alone and not corrected" in sentence for sentence in sentences(found))


def test_an_interval_that_rests_on_no_spread_or_on_no_flips_says_so():
    found = made({"sft": 0.0, "a": 1.0})
    alike = with_pair(found, "sft", "a", difference=Figure(-1.0, -1.0, -1.0, 40, note=NO_SPREAD))
    assert NO_SPREAD in sentences(alike)[0]
    assert "[+1.00, +1.00]" in sentences(alike)[0]
    few = with_pair(found, "sft", "a", difference=Figure(-1.0, -math.inf, math.inf, 8), verdict="none", detectable=None)
    assert "gold reward -1.00 [too few prompts for an interval], corrected p" in sentences(few)[0]


def at_equal_kl(made, *rows):
    """The same with pairs compared over the KLs that both reach: names, difference, verdict."""
    found = []
    for first, second, difference, verdict in rows:
        band = [
            MatchedDifference(kl=kl, first=first, second=second, difference=figure(at), p=0.5)
            for kl, at in ((0.5, 0.05), (1.0, difference), (2.0, difference))
        ]
        p = 0.4 if verdict == "none" else 0.01
        found.append(
            EqualKl(
                first=first,
                second=second,
                low_kl=0.5,
                high_kl=2.0,
                difference=figure(difference),
                p=p,
                p_adjusted=p,
                verdict=verdict,
                band=tuple(band),
            )
        )
    line = Frontier(points=(), oracle=None, best_of_n=(), matched=(), matched_differences=(), equal_kl=tuple(found))
    return replace(made, frontier=line)


def test_equal_kl_is_exploratory_unless_it_is_the_primary_endpoint():
    plain = made({"sft": 0.0, "dpo": 1.0, "ppo": 0.9}, same={("dpo", "ppo")})
    first = "No detectable difference between dpo and ppo. Against sft: dpo and ppo better."
    found = at_equal_kl(plain, ("dpo", "ppo", -0.2, "second"))
    ahead = "equal KL (up to 2.00 nats) ppo is ahead of dpo (+0.20 [+0.10, +0.30])."
    assert headline(found, "sft") == f"{first} Exploratory: at {ahead}"
    assert headline(replace(found, primary="equal-kl"), "sft") == f"At {ahead} Exploratory, as configured: {first}"
    same = at_equal_kl(plain, ("dpo", "ppo", 0.0, "none"))
    assert headline(same, "sft") == f"{first} Exploratory: at equal KL (up to 2.00 nats) no detectable difference."
    nothing = replace(plain, primary="equal-kl")
    assert headline(nothing, "sft").startswith("No two methods reach a KL in common. Exploratory, as configured: ")


def test_a_sentence_says_where_the_band_leaves_out_0():
    found = at_equal_kl(made({"sft": 0.0, "dpo": 1.0, "ppo": 0.9}), ("dpo", "ppo", 0.2, "first"))
    assert sentences(found)[-1] == (
        "At equal KL, dpo beats ppo: gold reward +0.20 [+0.10, +0.30], corrected p = 0.010 over KLs of 0.50 to 2.00 "
        "nats; the band leaves 0 out from 1.00 to 2.00 nats."
    )


def test_kin_of_the_maximised_reward_model_is_said_before_anything_else():
    said = headline(replace(made({"sft": 0.0, "dpo": 1.0}, seeds=1), judge_is_kin=True), "sft")
    assert said.startswith("Judged by a reward model of the same base, start and recipe as the one maximised")


def test_tuning_and_looks_are_said():
    trials = tuple(
        Trial(number=at, settings={"beta": 0.1 * (at + 1)}, objective=float(at), kl=1.0, seconds=2.0, flops=3.0)
        for at in range(3)
    )
    tuned = Tuned(objective="gold", prompts=40, chosen=2, trials=trials, importance={})
    plain = made({"sft": 0.0, "dpo": 1.0, "ppo": 0.9})
    found = replace(plain, tuning={"dpo": tuned, "ppo": tuned}, looks=2)
    tuning, looks = sentences(found)[-2:]
    assert tuning == (
        "Tuned on 40 training prompts set aside, by gold, 3 trials each, on a replication of their own: dpo: beta 0.3; "
        "ppo: beta 0.3."
    )
    assert looks.startswith("The test prompts of this run folder have been used for 2 comparisons, this one included")
    assert len(sentences(plain)) == len(sentences(found)) - 2
