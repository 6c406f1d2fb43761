"""What a referee would doubt: found where it is planted, and not in what is in order."""

from __future__ import annotations

import random

import pytest

from preflab.data.doubts import doubts_of
from preflab.data.lengths import bias_of, lengths_of
from preflab.data.near import WIDESPREAD, near_duplicates

WORDS = [
    "river",
    "stone",
    "cloud",
    "ember",
    "violet",
    "window",
    "garden",
    "signal",
    "copper",
    "harbour",
    "lantern",
    "meadow",
]


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


def pairs(count: int, seed: int = 1) -> list[dict]:
    draw = random.Random(seed)
    return [
        {
            "prompt": f"{text(draw, 6)} {i}",
            "chosen": text(draw, draw.randint(4, 12)),
            "rejected": text(draw, draw.randint(4, 12)),
        }
        for i in range(count)
    ]


def found(rows: list[dict]) -> dict[str, object]:
    return {doubt.about: doubt for doubt in doubts_of(rows, range(1, len(rows) + 1))}


def test_rows_in_order_raise_no_doubt():
    assert found(pairs(200)) == {}
    assert found([]) == {}


def test_a_pair_in_both_orders_and_one_that_stands_twice():
    rows = pairs(40)
    turned = {**rows[3], "chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    doubts = found([*rows, turned, rows[7]])
    assert {*doubts} - {*found(rows)} == {"both orders", "repeated"}
    assert (doubts["both orders"].rows, doubts["repeated"].rows) == ((4, 41), (42,))


def test_one_response_with_both_labels():
    singles = [{"prompt": f"p{i}", "response": "r", "desirable": True} for i in range(9)]
    doubts = found([*singles, {"prompt": "p4", "response": "r", "desirable": False}])
    assert doubts["both labels"].rows == (5, 10)
    assert set(doubts) == {"both labels"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: {**row, "chosen": f"Sure! {row['chosen']}"}, "100% of the chosen responses begin with 'Sure!"),
        (lambda row: {**row, "rejected": f"{row['rejected']} END"}, "END', and 100% of the rejected"),
    ],
    ids=["beginning", "end"],
)
def test_a_constant_beginning_or_end_gives_the_label_away(change, said):
    rows = pairs(60)
    doubts = found([change(row) for row in rows])
    assert said in doubts["given away"].message
    both = [change({**row, "chosen": row["rejected"], "rejected": row["chosen"]}) for row in rows[:30]]
    mixed = [*(change(row) for row in rows), *both]
    assert found(mixed)["given away"].message == found(list(reversed(mixed)))["given away"].message


def test_what_begins_both_sides_gives_nothing_away():
    assert "given away" not in found(
        [{**row, "chosen": f"Sure! {row['chosen']}", "rejected": f"Sure! {row['rejected']}"} for row in pairs(60)]
    )


def test_one_side_that_is_always_longer():
    rows = [{**row, "chosen": f"{row['chosen']} {row['rejected']}"} for row in pairs(60)]
    assert "the chosen response is the longer one in 100% of the pairs" in found(rows)["longer"].message
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    assert "the rejected response is the longer one in 100%" in found(turned)["longer"].message
    assert "longer" not in found(rows[:20]), "of so few pairs a share says little"


def test_one_refusal_in_many_rows():
    rows = [{**row, "rejected": "I cannot help with that."} if i % 10 == 0 else row for i, row in enumerate(pairs(100))]
    doubt = found(rows)["one text"]
    assert "10 of the rejected responses are one text, 'I cannot help with that.'" in doubt.message
    assert doubt.rows == (1, 11, 21, 31, 41)


# ---- nearly the same ---------------------------------------------------------------------------------

QUESTION = "What should I tell my neighbour about the noise that his dog makes at night?"


@pytest.mark.parametrize(
    "other",
    [
        QUESTION.upper(),
        QUESTION.replace("?", " ??"),
        f"Please: {QUESTION}",
        QUESTION.replace("night", "noon"),
    ],
)
def test_prompts_that_differ_in_little_are_found(other):
    near = near_duplicates(["Who wrote this song about rain and trains?", QUESTION], ["How do I boil an egg?", other])
    assert (near.held, near.looked_at, near.example) == (1, (2, 2), (QUESTION, other))


def test_prompts_of_one_form_that_ask_different_things_are_not():
    draw = random.Random(0)
    form = "You are a helpful assistant who answers every question in full and with great care. Question: "
    for half in (20, 2 * WIDESPREAD[0]):
        asked = [form + text(draw, 8) for _ in range(2 * half)]
        assert near_duplicates(asked[:half], asked[half:]).held == 0
        assert near_duplicates(asked[:half], [f"{asked[3]}!", *asked[half:]]).held == 1


def test_other_numbers_are_other_questions():
    sums = [f"What is {a} plus {b}?" for a in range(5) for b in range(5)]
    assert near_duplicates(sums[::2], sums[1::2]).held == 0


def test_short_prompts_are_compared_whole():
    assert near_duplicates(["Hi there"], ["hi, there!"]).held == 1
    assert near_duplicates(["Hi there"], ["Hi you"]).held == 0
    assert near_duplicates([], ["Hi"]).held == near_duplicates(["Hi"], []).held == 0


# ---- lengths -----------------------------------------------------------------------------------------


def test_quantiles_are_lengths_that_occur_and_those_over_the_limit_are_counted():
    found = lengths_of("prompt", list(range(1, 101)), 90)
    assert found.quantiles == {"5%": 5, "25%": 25, "50%": 50, "75%": 75, "95%": 95, "longest": 100}
    assert (found.count, found.limit, found.over) == (100, 90, 10)
    assert lengths_of("prompt", [7], None).over == 0


def test_bias_is_of_pairs_of_unequal_length():
    bias = bias_of([3, 5, 4, 4], [1, 6, 4, 2])
    assert (bias.pairs, bias.difference) == (4, 0.75)
    assert bias.longer_chosen == pytest.approx(2 / 3)
    assert bias_of([], []) is None
