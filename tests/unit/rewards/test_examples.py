"""The example rewards give what they say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from preflab.rewards import RewardOptions, open_reward
from preflab.rewards.examples import final_number, happy_story, talking_story, varied_story


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("3 + 4 = 7", "7", 1.0),
        ("It is 7. No, it is 8.", "7", 0.0),
        ("That makes $1,200.50.", 1200.5, 1.0),
        ("1,200", "1200.0", 1.0),
        ("-3", "3", 0.0),
        ("no number", "3", 0.0),
        ("", 3, 0.0),
        ("18", "She sells 9 for 2 each: 9 * 2 = 18\n#### 18", 1.0),
        ("about .5", "0.50", 1.0),
    ],
)
def test_final_number(response, answer, right):
    assert final_number(response, answer) == right


def test_an_answer_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="holds no number: 'seven'"):
        final_number("7", "seven")


def test_gold_ignores_white_space_around_a_response_as_the_evaluation_does():
    gold = open_reward(RewardOptions(reward="preflab.rewards.examples:happy_story"))
    (bare, spaced) = gold(["A day"] * 2, ["He was glad.", "  He was glad.\n"])
    assert bare == spaced == happy_story("A day", "He was glad.")


# ---- the example rewards -----------------------------------------------------------------------------


def test_happy_story_by_hand() -> None:
    # "glad" and "laughed" are new and happy, "sad" is new and sad, "happy" stands in the prompt.
    assert happy_story("A happy boy", "was glad. He laughed. He was happy, not sad.") == 2 - 1
    # Seven words give five triples, all different; no full stop.
    assert happy_story("A boy", "was glad to see his dog again") == 1 - 0.5
    # "so glad so glad so glad": triples sgs gsg sgs gsg, half of them seen before; no full stop.
    assert happy_story("", "so glad so glad so glad") == 1 - 6 * 0.5 - 0.5


def test_happy_story_gains_nothing_by_repeating_a_word() -> None:
    assert happy_story("", "They were happy.") > happy_story("", "They were happy, happy, happy, happy, happy.")


@pytest.mark.parametrize("reward", [happy_story, talking_story, varied_story])
@pytest.mark.parametrize("response", ["", " ", "…", "\U0001f600", "a " * 500])
def test_example_rewards_take_any_text(reward: Any, response: str) -> None:
    assert math.isfinite(reward("", response))


def test_talking_and_varied_stories_prefer_what_they_say() -> None:
    assert talking_story("", 'Tim said, "Let us play with the big red ball!"') > talking_story("", "Tim had a ball.")
    assert talking_story("", 'Tim said, "Let us play.') <= 0  # an open quote is no speech
    assert varied_story("", "A purple dragon baked bread.") > varied_story("", "A cat sat on a mat and sat.")
