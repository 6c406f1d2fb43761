"""A reward function is given what the names of its parameters ask for."""

from __future__ import annotations

import pytest

from preflab.errors import UserError
from preflab.rewards import wanted_columns
from preflab.rewards.signatures import read_signature

CHAT = [{"role": "user", "content": "2 + 2?"}]
ASKED = {"p": {"answer": "4", "tests": ["a", "b"]}, "q": {"answer": "5"}}


def test_one_at_a_time_by_name(opened):
    reward = opened(
        "def f(response, answer, prompt, weight=1.0): return weight * (response == answer) + len(prompt)", ASKED
    )
    assert reward(["p", "q", "q"], ["4", " 5\n", "4"]) == [2.0, 2.0, 1.0]


def test_everything_else_comes_as_keywords(opened):
    source = "def f(response, **columns): return float(columns['answer'] == response and sorted(columns) != [])"
    assert opened(source, ASKED)(["p", "q"], ["4", "4"]) == [1.0, 0.0]
    names = "def f(response, **columns): return len(columns)"
    assert opened(names, ASKED)(["p", "q"], ["x", "x"]) == [3.0, 2.0]  # the prompt among them


def test_in_batches(opened):
    source = """
        def f(prompts, responses, answer, tests=None):
            assert len(prompts) == len(responses) == len(answer) == len(tests)
            return [float(r == a) + len(t or ()) for r, a, t in zip(responses, answer, tests)]
        """
    assert opened(source, ASKED)(["p", "q", "p"], ["4", "4", "x"]) == [3.0, 0.0, 2.0]


def test_a_reward_of_trl_runs_unchanged(opened):
    # As in TRL's documentation of GRPO: texts of a standard data set, messages of a conversational one.
    texts = "def f(completions, answer, **kwargs): return [1.0 if c == a else 0.0 for c, a in zip(completions, answer)]"
    assert opened(texts, ASKED)(["p", "q"], ["4", "4"]) == [1.0, 0.0]
    messages = """
        def f(prompts, completions, answer, **kwargs):
            assert prompts[0][-1]["role"] == "user" and completions[0][0]["role"] == "assistant"
            return [1.0 if c[0]["content"] == a else 0.0 for c, a in zip(completions, answer)]
        """
    asked = {"p": (CHAT, {"answer": "4"}), "q": (CHAT, {"answer": "5"})}
    assert opened(messages, asked)(["p", "q"], ["4", "4"]) == [1.0, 0.0]


def test_the_prompt_as_messages(opened):
    source = "def f(messages, response): return len(messages[-1]['content'])"
    assert opened(source, {"p": (CHAT, {})})(["p", "plain"], ["a", "a"]) == [6.0, 5.0]


def test_wanted_columns(place):
    source = """
        def f(response, answer, unit="m"): return 0.0
        def g(completions, unit, **rest): return [0.0]
        def h(prompt, response): return 0.0
        """
    first = place(source)
    second, third = first.replace(":f", ":g"), first.replace(":f", ":h")
    assert wanted_columns(None) == wanted_columns(third) == wanted_columns("endpoint") == (set(), set(), False)
    assert wanted_columns(first) == ({"answer"}, {"unit"}, False)
    assert wanted_columns(f"{first}=0.5,{second}=0.5,model") == ({"answer", "unit"}, set(), True)
    assert wanted_columns(first).names == {"answer", "unit"}
    assert wanted_columns(second).names is None
    with pytest.raises(
        UserError, match=r"asks for the column 'answer', and d.jsonl has none \(did you mean 'awnser'\?\)"
    ):
        wanted_columns(first).check(["prompt", "awnser"], "d.jsonl")


def test_a_prompt_without_a_column_is_named(opened):
    with pytest.raises(UserError, match="asks for the column 'answer', and prompt 'q' has none"):
        opened("def f(response, answer): return 0.0", {"p": {"answer": 1}, "q": {}})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompt, answer: 0.0, r"has the arguments \(prompt, answer\); a reward takes"),
        (lambda prompt, responses: 0.0, "has the arguments"),
        (lambda responses, completions: 0.0, "has the arguments"),
        (lambda *texts: 0.0, "has the arguments"),
        (lambda response, other, /: 0.0, "has the arguments"),
        (3, "is no function but 3"),
        (int, "is no function but a class"),
    ],
)
def test_what_takes_no_response_is_refused(function, message):
    with pytest.raises(UserError, match=message):
        read_signature(function, "reward 'x'")


def test_a_generator_is_refused(place):
    with pytest.raises(UserError, match="yields; it must return"):
        wanted_columns(place("def f(response): yield 0.0"))


def test_a_function_that_tells_nothing_is_called_by_place():
    assert read_signature(min, "min").texts == frozenset()
