"""Methods against each other: what is tested, and what the ranking claims."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from preflab.disk.files import write_jsonl
from preflab.errors import UserError
from preflab.eval.comparison.contestant import Contestant, read_curve
from preflab.eval.comparison.contests import by_gold, compare_pairs, head_to_head, play, rank
from preflab.eval.comparison.record import summarise, summarise_comparison
from preflab.eval.pipeline.judging import ByAnswers
from preflab.eval.records.columns import column
from preflab.eval.records.figures import Figure
from preflab.eval.records.records import Records
from preflab.eval.statistics import bradley_terry, compare_wins, interval, length_controlled_win_rate

PROMPTS = 64
UNITS = ("tokens", "characters")


def records(gold, kl=0.5):
    rows = [
        {
            "prompt": f"p{i}",
            "response": f"word {i} said {value:.3f}",
            "length": 5 + i % 3,
            "ended": True,
            "log_ratio": kl,
            "kl": kl,
            "entropy": 1.0,
            "gold": float(value),
            "proxy": None,
        }
        for i, value in enumerate(gold)
    ]
    return Records(rows, [])


def contestant(name, mean, seeds=1, *, noise=0.3, kl=0.5, **fields):
    rng = np.random.default_rng([len(name), *map(ord, name), seeds])
    base = np.random.default_rng(0).normal(size=PROMPTS)  # what a prompt gives to everybody
    tables = [mean + base + noise * rng.normal(size=PROMPTS) for _ in range(seeds)]
    return Contestant(name, [records(table, kl) for table in tables], **fields)


def tournament(contestants, decide):
    """Return the tests of all pairs of methods and the ranking; every two meet once."""
    games = play(contestants, decide)
    tests = compare_pairs(contestants, games, scored=decide is by_gold)
    return tests, rank(contestants, games, tests) if tests else []


def pairs_of(contestants, decide):
    return tournament(contestants, decide)[0]


def by_nobody(first, second):
    return np.full(PROMPTS, np.nan)


def test_seeds_meet_in_turn_where_one_side_has_fewer():
    one, three = contestant("one", 0.0), contestant("three", 0.0, seeds=3)
    games = head_to_head(one, three, by_gold)
    assert games.shape == (3, PROMPTS)
    assert np.array_equal(games[2], by_gold(one.records[0], three.records[2]))


def test_an_effect_is_the_difference_in_deviations_of_the_starts_rewards():
    sft, dpo = contestant("sft", 0.0, seeds=2), contestant("dpo", 1.0)
    games = play([sft, dpo], by_gold)
    (test,) = compare_pairs([sft, dpo], games, scored=True, start=sft)
    unit = np.concatenate([[row["gold"] for row in records.samples] for records in sft.records]).std(ddof=1)
    assert test.effect.mean == pytest.approx(test.difference.mean / unit)
    assert test.effect.low == pytest.approx(test.difference.low / unit)
    (wins,) = compare_pairs([sft, dpo], games, scored=False, start=sft)
    assert wins.effect is None, "a share of wins is in no reward's units"
    (alone,) = compare_pairs([sft, dpo], games, scored=True)
    assert alone.effect is None


def test_models_that_met_several_are_one_row():
    """Seeds 0 and 2 of three met seed 0 of two: their games share a model, and are no two independent ones."""
    two, three = contestant("two", 0.0, seeds=2), contestant("three", 0.0, seeds=3)
    games = head_to_head(two, three, by_gold)
    assert len(games) == 3
    [row] = compare_pairs([two, three], {("two", "three"): games}, scored=False)
    by_model = np.stack([games[[0, 2]].mean(0), games[1]])
    assert row.win_rate == Figure.of(interval(by_model, rate=True))
    assert row.p == compare_wins(by_model).p
    # Equal numbers, or one model against several, need nothing.
    one = contestant("one", 0.0)
    for first, second in ((one, three), (three, contestant("again", 0.0, seeds=3))):
        games = head_to_head(first, second, by_gold)
        [row] = compare_pairs([first, second], {(first.name, second.name): games}, scored=False)
        assert row.win_rate == Figure.of(interval(games, rate=True))


def test_a_single_model_of_a_side_keeps_its_games_apart():
    """Where only seed 0 of the two was judged, the question is about it, and the other's seeds are three."""
    two, three = contestant("two", 0.0, seeds=2), contestant("three", 0.0, seeds=4)
    games = head_to_head(two, three, by_gold)
    games[[1, 3]] = np.nan
    [row] = compare_pairs([two, three], {("two", "three"): games}, scored=False)
    assert row.win_rate == Figure.of(interval(games[[0, 2]], rate=True))


def test_wins_ties_and_losses_are_shares_of_the_games_that_were_decided():
    one, other = contestant("one", 0.0), contestant("other", 0.0)
    said = np.array([1.0, 0.8, 0.5, 0.5, 0.0, *[np.nan] * (PROMPTS - 5)])  # 0.8: annotators disagree
    [row] = pairs_of([one, other], lambda first, second: said)
    shares = [share.mean for share in (row.wins, row.ties, row.losses)]
    assert shares == pytest.approx([0.4, 0.4, 0.2])
    assert [share.n for share in (row.win_rate, row.wins, row.ties, row.losses)] == [5] * 4
    found = summarise(one, [[other.records[0]] * 2], lambda first, second: said)
    assert [found.figures[name].mean for name in ("wins", "ties", "losses")] == pytest.approx(shares)


def test_wins_ties_and_losses_add_up_to_the_win_rate_with_unequal_seeds():
    one, three = contestant("one", 0.1, seeds=2), contestant("three", 0.0, seeds=3)
    [row] = pairs_of([one, three], by_gold)
    assert row.wins.mean + row.ties.mean / 2 == pytest.approx(row.win_rate.mean)
    assert row.wins.mean + row.ties.mean + row.losses.mean == pytest.approx(1.0)


def test_equal_methods_of_unequal_seeds_are_called_different_once_in_twenty():
    """Five models against two, wins that differ by model: as if there were five pairs, a test rejects three times as
    often."""
    generator, found, runs = np.random.default_rng(0), 0, 200
    sides = [contestant("a", 0.0, seeds=2), contestant("b", 0.0, seeds=5)]
    for _ in range(runs):
        own, others = generator.normal(size=2), generator.normal(size=5)
        chance = 1 / (1 + np.exp(-np.array([own[i % 2] - others[i] for i in range(5)])))
        games = (generator.random((5, PROMPTS)) < chance[:, None]).astype(float)
        [row] = compare_pairs(sides, {("a", "b"): games}, scored=False)
        found += row.verdict != "none"
    assert found <= 0.1 * runs


def test_ratings_are_of_games_without_a_model_in_common():
    sides = [contestant("a", 0.0, seeds=2), contestant("b", 0.3, seeds=3), contestant("c", 0.6, seeds=5)]
    games = play([*sides, contestant("one", 0.0)], by_gold)
    _, ranks = tournament([*sides, contestant("one", 0.0)], by_gold)
    expected = bradley_terry(["a", "b", "c", "one"], {pair: table[:2] for pair, table in games.items()})
    assert {r.method: r.rating for r in ranks} == {r.method: Figure.of(r.rating) for r in expected}


def test_everybody_meets_once():
    met = []

    def noted(first, second):
        met.append((id(first), id(second)))
        return by_gold(first, second)

    tournament([contestant("a", 0.0, seeds=2), contestant("b", 0.0, seeds=2), contestant("c", 0.0)], noted)
    assert len(met) == len(set(met)) == 6


def test_who_wins_by_few_wide_margins_stands_where_the_tests_put_it():
    base = np.random.default_rng(0).normal(size=PROMPTS)
    wide = np.where(np.arange(PROMPTS) < 24, 20.0, -0.5)  # loses most games
    sides = [Contestant(name, [records(base + by)]) for name, by in (("few", 0.0), ("wide", wide))]
    [test], ranks = tournament(sides, by_gold)
    assert test.verdict == "second"
    assert test.win_rate.mean > 0.5
    assert [(r.method, r.rank_low) for r in ranks] == [("wide", 1), ("few", 2)]
    assert ranks[0].rating.mean < ranks[1].rating.mean


@pytest.mark.parametrize(("value", "said"), [(None, "missing"), (math.nan, "nan")])
def test_a_missing_score_is_the_users_to_know(value, said):
    sides = [contestant("a", 0.0), contestant("b", 0.0)]
    sides[1].records[0].samples[5]["gold"] = value
    with pytest.raises(UserError, match=rf"gold of row 5 \(training seed 0\) is {said}"):
        tournament(sides, by_gold)


def test_lengths_count_game_by_game():
    """Against several answers of the baseline, each with a length of its own."""
    generator = np.random.default_rng(1)
    own, *draws = (records(np.zeros(PROMPTS)) for _ in range(5))
    for table in (own, *draws):
        for row in table.samples:
            row["length"] = int(generator.integers(10, 60)) + 10 * (table is own)
    longer = np.stack([column([own.samples], "length")[0] - column([draw.samples], "length")[0] for draw in draws])
    wins = (generator.random(longer.shape) < 1 / (1 + np.exp(-3 * np.tanh(longer / 22)))).astype(float)
    found = summarise(Contestant("a", [own]), [draws], lambda _, draw: wins[draws.index(draw)])
    expected = length_controlled_win_rate(wins[None], longer[None]).win_rate
    assert expected.mean < 0.53 < 0.57 < wins.mean()
    said = found.figures["length_controlled_win_rate"]
    # The search for the fit ends within 1e-8.
    assert [said.mean, said.low, said.high, said.n] == pytest.approx([*expected], abs=1e-6)
    assert said.n == PROMPTS
    assert found.figures["win_rate"] == Figure.of(interval(wins.mean(0), rate=True))


def test_lengths_are_counted_in_characters_where_that_is_asked_for():
    own, draw = contestant("dpo", 0.3), records(np.random.default_rng(3).normal(size=PROMPTS))
    rows = [{**row, "response": "x" * (at * 7 % 50)} for at, row in enumerate(own.records[0].samples)]
    own = replace(own, records=[Records(rows, [])])
    longer = [len(a["response"]) - len(b["response"]) for a, b in zip(rows, draw.samples, strict=True)]
    expected = length_controlled_win_rate(by_gold(own.records[0], draw), longer).win_rate.mean
    found = [summarise(own, [[draw]], by_gold, 1, unit).figures["length_controlled_win_rate"] for unit in UNITS]
    assert found[1].mean == pytest.approx(expected)
    assert abs(found[0].mean - expected) > 1e-3


def test_a_difference_is_found_with_its_sign_and_none_where_there_is_none():
    rows = pairs_of([contestant("low", 0.0), contestant("high", 1.0), contestant("also", 1.0)], by_gold)
    assert [(row.first, row.second, row.verdict) for row in rows] == [
        ("low", "high", "second"),
        ("low", "also", "second"),
        ("high", "also", "none"),
    ]
    assert rows[0].measure == "gold_reward"
    assert rows[0].difference.mean == pytest.approx(-1.0, abs=0.2)
    assert rows[0].win_rate.mean < 0.1
    assert all(row.p_adjusted >= row.p for row in rows)


def test_a_judge_that_compares_is_tested_on_wins():
    decided = np.ones(PROMPTS)
    decided[:4] = np.nan  # nobody said
    [row] = pairs_of([contestant("a", 0.0), contestant("b", 0.0)], lambda first, second: decided)
    assert (row.measure, row.verdict) == ("win_rate", "first")
    assert row.difference.mean == 1.0
    assert row.win_rate.n == PROMPTS - 4


@pytest.mark.parametrize(("verdict", "count", "said"), [(1.0, 3, "none"), (1.0, 40, "first"), (0.5, 40, "none")])
def test_verdicts_that_are_all_alike_are_as_sure_as_they_are_many(verdict, count, said):
    answers = np.where(np.arange(PROMPTS) < count, verdict, np.nan)
    [row] = pairs_of([contestant("a", 0.0), contestant("b", 0.0)], lambda first, second: answers)
    assert row.verdict == said
    assert row.difference.low < row.difference.high
    assert row.detectable is None


def test_what_nobody_judged_is_left_out():
    three = [contestant("a", 0.0), contestant("b", 0.0), contestant("c", 0.0, seeds=2)]
    assert tournament(three, by_nobody) == ([], [])
    assert rank(three, play(three, by_nobody), []) == []

    def by_a_few(first, second):
        """Somebody who saw one pair of models alone."""
        saw = first is three[0].records[0] and second is three[2].records[1]
        return np.where(np.arange(PROMPTS) < 10, 1.0, np.nan) if saw else by_nobody(first, second)

    [row] = pairs_of(three, by_a_few)
    assert (row.first, row.second, row.win_rate.n) == ("a", "c", 10)


def test_the_ranking_claims_no_more_than_the_tests():
    three = [contestant("low", 0.0), contestant("high", 1.0), contestant("also", 1.02)]
    _, ranks = tournament(three, by_gold)
    assert {place.method: (place.rank_low, place.rank_high) for place in ranks} == {
        "high": (1, 2),
        "also": (1, 2),
        "low": (3, 3),
    }
    assert np.mean([place.rating.mean for place in ranks]) == pytest.approx(1000)
    assert ranks[-1].method == "low"


def test_a_comparison_holds_sweeps_apart_from_what_is_compared():
    start = contestant("sft", 0.0, kl=0.0)
    swept = [contestant("dpo", 0.5 + 0.1 * i, kl=1.0 + i, varied={"beta": 1 / (i + 1)}) for i in range(3)]
    found = summarise_comparison(
        [start, contestant("dpo", 1.0, kl=1.5), *swept], baseline=[[contestant("base", 0.0).records[0]]], decide=by_gold
    )
    assert list(found.methods) == ["sft", "dpo"]
    assert found.methods["dpo"].settings_tried == 4
    assert len(found.frontier.points) == 4
    assert found.overoptimisation["dpo"].law == "rl"
    assert found.headline == "Of these trained models, one training seed each: Against sft: dpo better."
    assert found.training_seeds == 1
    assert found.methods["dpo"].figures["win_rate"].mean > 0.9


def test_table_headline_and_frontier_give_one_kl():
    """The sampled log-ratio is here negative, and half of what the next-token KL says: they are told apart."""

    def measured(name, mean, kl, **fields):
        made = contestant(name, mean, **fields)
        seeds = []
        for one in made.records:
            rows = [
                {**row, "kl": kl + 0.1 * (at % 5), "log_ratio": kl / 2 - at % 7} for at, row in enumerate(one.samples)
            ]
            seeds.append(Records(rows, []))
        return replace(made, records=seeds)

    def chosen(name, mean, kl):
        made = measured(name, mean, kl)
        rows = [{**row, "kl": None} for row in made.records[0].samples]
        return replace(made, records=[Records(rows, [])])

    way = [measured("dpo", 0.5 * share, share, varied={"share": share}) for share in (0.5, 1.5)]
    dpo, ppo = replace(measured("dpo", 1.0, 1.0), back=way), measured("ppo", 0.1, 2.0)
    found = summarise_comparison(
        [measured("sft", 0.0, 0.0), dpo, ppo, chosen("best-of-n", 0.2, 1.0)],
        baseline=[[contestant("base", 0.0).records[0]]],
        decide=by_gold,
    )
    points = {point.method: point.kl for point in found.frontier.points if not point.setting}
    for name in ("dpo", "ppo", "best-of-n"):
        assert found.methods[name].figures["kl"] == points[name]
    # 64 prompts: 0.1 · (0 + 1 + 2 + 3 + 4) · 12 + 0.1 · (0 + 1 + 2 + 3), over 64.
    assert points["dpo"].mean == pytest.approx(1.0 + (12 + 0.6) / 64)
    assert f"dpo {points['dpo'].mean:.2f}" in found.headline
    # Answers chosen among samples have no next-token probabilities: 0.5 less the mean of 0 to 6.
    assert points["best-of-n"].mean == pytest.approx(0.5 - (9 * 21) / 64)
    assert found.methods["dpo"].figures["kl_log_ratio"].mean < 0 < found.methods["dpo"].figures["kl"].low
    followed = [point.kl.mean for point in found.frontier.points if point.setting]
    assert followed == pytest.approx([share + (12 + 0.6) / 64 for share in (0.5, 1.5)])


def test_without_a_judge_nothing_is_ranked():
    found = summarise_comparison([contestant("sft", 0.0), contestant("dpo", 1.0)], baseline=[], decide=None)
    assert (found.pairwise, found.ranking) == ((), ())
    assert found.methods["dpo"].figures["win_rate"] is None


def test_a_curve_is_thinned_and_keeps_its_ends(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": i, "loss": 1.0, "epoch": 0.1} for i in range(1000)])
    rows = read_curve(tmp_path)
    assert (rows[0], rows[-1]["step"], len(rows)) == ({"step": 0, "loss": 1.0}, 999, 200)
    assert read_curve(tmp_path / "nothing") == []


class Reader:
    """A judge that compares and has read so many pairs."""

    name, sees_position = "reader", False

    def __init__(self, read):
        self.read, self.asked = read, 0

    def prefer(self, prompts, first, second):
        self.asked += 1
        return [1.0 if i < self.read else None for i in range(len(prompts))]

    def report(self):
        return {"judge": self.name}


@pytest.mark.parametrize(("read", "decided"), [(PROMPTS - 2, PROMPTS), (5, 5), (0, 0)])
def test_equal_responses_are_ties_only_where_everything_else_was_judged(read, decided):
    first, second = records(np.arange(PROMPTS) * 1.0), records(np.arange(PROMPTS) + 1.0)
    for at in (3, 9):
        second.samples[at]["response"] = first.samples[at]["response"]
    judge = Reader(read)
    decide = ByAnswers(judge)
    wins = decide(first, second)
    assert np.isfinite(wins).sum() == decided
    assert (wins[[3, 9]] == 0.5).all() == (decided == PROMPTS)
    assert np.array_equal(decide(first, second), wins, equal_nan=True)
    assert judge.asked == 1
    found = decide.report()
    assert (found["judge"], found["identical"], found["missing"]) == ("reader", 2, PROMPTS - 2 - read)


def test_one_prompt_is_no_comparison():
    single = [Contestant(name, [records([value])] * 3) for name, value in (("a", 0.0), ("b", 1.0))]
    with pytest.raises(UserError, match="one prompt"):
        compare_pairs(single, play(single, by_gold), scored=True)


def test_prompts_that_were_judged_for_other_seeds_each_are_said_to_be():
    first, second = contestant("a", 0.0, seeds=2), contestant("b", 0.3, seeds=2)
    half = np.arange(PROMPTS) < PROMPTS // 2

    def judged_by_halves(one, other):
        return np.where(half if one is first.records[0] else ~half, 1.0, np.nan)

    found = summarise_comparison([first, second], baseline=[], decide=judged_by_halves)
    assert found.pairwise == ()
    assert found.untested[0].reason.startswith("not tested, judged on 64 prompts (32 of seed 0, 32 of seed 1)")
    assert any("none was judged for all of these seeds" in sentence for sentence in found.verdict)
    assert "could be tested" in found.headline


def test_a_strong_effect_of_length_is_doubted():
    rng = np.random.default_rng(0)
    longer = rng.normal(size=(1, 400))
    wins = (rng.random((1, 400)) < 1 / (1 + np.exp(-12 * longer))).astype(float)
    assert "length nearly decides" in length_controlled_win_rate(wins, longer).note
    assert length_controlled_win_rate((rng.random((1, 400)) < 0.6).astype(float), longer).note is None
