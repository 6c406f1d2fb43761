"""Metrics of sampled responses, and their summary."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from preflab.errors import UserError
from preflab.eval.comparison.generations import KEYS, summarise_generations
from preflab.eval.metrics import base, distinct_n, load, repetition, self_similarity
from preflab.eval.metrics.words import ngrams, words

REPEATED = "the cat sat on the mat the cat sat on the mat"


def texts(generator: np.random.Generator, n: int, vocabulary: int = 30) -> list[str]:
    """Responses of 3 to 12 words, a few of them frequent."""
    share = 1 / np.arange(1, vocabulary + 1)
    return [
        " ".join(
            f"w{word}" for word in generator.choice(vocabulary, size=generator.integers(3, 13), p=share / share.sum())
        )
        for _ in range(n)
    ]


def jackknife_error(statistic: Any, response: list[str]) -> float:
    """Standard error by leaving out one response at a time, in the textbook's form."""
    without = np.array([statistic(response[:i] + response[i + 1 :]) for i in range(len(response))])
    n = len(response)
    return math.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))


def test_a_mean_is_linear_in_its_values_already() -> None:
    values = np.array([1.0, 2.0, 6.0, -3.0])
    np.testing.assert_allclose(base.linearised(1.5, (values.sum() - values) / 3), values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, DON'T!", ["don't", "stop", ",", "don't", "!"]),
        ("!!! ok_1", ["!", "!", "!", "ok_1"]),
        ("Größe naïve", ["grösse", "naïve"]),
        ("猫が座る cat", ["猫", "が", "座", "る", "cat"]),
        (" \n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_ngrams_of_short_texts() -> None:
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert ngrams(["a"], 2) == []


# ---- distinct-n ----


def test_distinct_n_is_over_all_responses_together() -> None:
    # Pairs: ab bc | ab bd: 3 distinct of 4. Words: a b c d of 6. Triples: abc, abd.
    result = load("distinct_n").compute(response=["a b c", "A b d"])
    assert (result["distinct_1"], result["distinct_2"], result["distinct_3"]) == (4 / 6, 3 / 4, 1.0)


def test_distinct_n_error_is_the_jackknifes() -> None:
    response = texts(np.random.default_rng(0), 30)

    def distinct(rows: list[str]) -> float:
        grams = [gram for text in rows for gram in itertools.pairwise(text.split())]
        return len(set(grams)) / len(grams)

    values = distinct_n.per_prompt(response)
    assert values.mean() == pytest.approx(distinct(response), abs=1e-12)
    assert values.std(ddof=1) / math.sqrt(30) == pytest.approx(jackknife_error(distinct, response), rel=1e-9)


def test_distinct_n_of_nothing_is_zero() -> None:
    np.testing.assert_array_equal(distinct_n.per_prompt(["", "a"]), [0.0, 0.0])
    np.testing.assert_array_equal(distinct_n.per_prompt(["a b"]), [1.0])


# ---- repetition ----


def test_repetition_is_the_share_of_earlier_4_grams() -> None:
    # 12 words have 9 runs of four; the second "the cat sat on", "cat sat on the" and "sat on the mat" are not new.
    np.testing.assert_allclose(repetition.per_prompt([REPEATED, "one two three", ""]), [3 / 9, 0.0, 0.0])
    assert repetition.per_prompt(["no " * 40])[0] == 1 - 1 / 37


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so so so good", 3 / 4),
        ("very very good", 0.0),  # twice is no loop
        ("well i am i am i am i", 7 / 8),
        ("a b c a b c", 0.0),
        ("a b c a b c a b c", 1.0),
        (" ".join("abcdefgh" * 3), 1.0),
        (" ".join("abcdefghi" * 3), 0.0),  # a unit of nine words is a paragraph
        ("no no yes no no yes no no yes no", 1.0),
        ("x x x y z z z z", 4 / 8),
        ("", 0.0),
    ],
)
def test_longest_run(text: str, expected: float) -> None:
    assert repetition.longest_run([text])[0] == pytest.approx(expected)


# ---- self-similarity ----


def similarity(rows: list[str]) -> float:
    """Mean cosine over all pairs of responses, the slow way."""
    padded = [["<start>", *text.split(), "<end>"] for text in rows]
    grams = sorted({gram for row in padded for gram in itertools.pairwise(row)})
    vectors = np.array([[list(itertools.pairwise(row)).count(gram) for gram in grams] for row in padded], dtype=float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    return float((cosines.sum() - len(rows)) / (len(rows) * (len(rows) - 1)))


def test_self_similarity_is_the_mean_cosine_with_the_jackknifes_error() -> None:
    response = texts(np.random.default_rng(0), 25, vocabulary=8)
    values = self_similarity.per_prompt(response)
    assert values.mean() == pytest.approx(similarity(response), abs=1e-12)
    assert values.std(ddof=1) / math.sqrt(25) == pytest.approx(jackknife_error(similarity, response), rel=1e-9)


def test_self_similarity_of_a_collapsed_and_of_a_various_policy() -> None:
    for same in ("the same", ""):
        result = load("self_similarity").compute(response=[same] * 5)
        assert result["self_similarity"] == pytest.approx(1.0)
        assert result["duplicates"] == 1.0
    various = load("self_similarity").compute(response=["a b", "c d", "e f"])
    assert (various["self_similarity"], various["duplicates"]) == (pytest.approx(0, abs=1e-12), 0.0)
    np.testing.assert_allclose(self_similarity.per_prompt(["a b", "a b"]), [1.0, 1.0])
    with pytest.raises(ValueError, match="one text; similarity needs at least two"):
        self_similarity.per_prompt(["a"])


def test_duplicates_and_their_error() -> None:
    response = ["a", "b", " b", "c", "c", "c\n", "d", "C", "e", "f"]

    def duplicated(rows: list[str]) -> float:
        stripped = [text.strip() for text in rows]
        return sum(stripped.count(text) > 1 for text in stripped) / len(stripped)

    values = self_similarity.duplicates(response)
    assert values.mean() == pytest.approx(5 / 10)
    assert values.std(ddof=1) / math.sqrt(10) == pytest.approx(jackknife_error(duplicated, response), rel=1e-9)
    np.testing.assert_array_equal(self_similarity.duplicates(["a", "b"]), [0.0, 0.0])
    np.testing.assert_array_equal(self_similarity.duplicates(["a"]), [0.0])


# ---- the KL ----


def test_the_kl_agrees_with_its_log_ratio_and_varies_less() -> None:
    """Two tokens drawn from a policy that depends on the first: KL by the chain rule, three ways."""
    generator = np.random.default_rng(0)
    first = np.array([0.7, 0.3]), np.array([0.5, 0.5])
    second = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    step = [float(np.sum(p * np.log(p / q))) for p, q in zip(*second, strict=True)]
    start = float(np.sum(first[0] * np.log(first[0] / first[1])))
    drawn = (generator.random(4000) < 0.3).astype(int)
    then = (generator.random(4000) < second[0][drawn, 1]).astype(int)
    ratios = np.log(first[0] / first[1])[drawn] + np.log(second[0] / second[1])[drawn, then]
    exact = load("kl_to_reference").compute(kl=start + np.array(step)[drawn])
    plain = load("kl_log_ratio").compute(log_ratio=ratios)
    truth = start + first[0] @ step
    assert exact["low"] < truth < exact["high"]
    assert plain["low"] < truth < plain["high"]
    assert exact["high"] - exact["low"] < 0.5 * (plain["high"] - plain["low"])


# ---- the summary ----


def samples(response: list[str], **columns: Any) -> list[dict[str, Any]]:
    """Records of one seed, with every column the harness writes."""
    count = len(response)
    table: dict[str, list[Any]] = {
        "prompt": [f"prompt {i}" for i in range(count)],
        "response": response,
        "length": [len(words(text)) + 1 for text in response],
        "ended": [i % 2 == 0 for i in range(count)],
        "log_ratio": [0.1 * i - 0.05 for i in range(count)],
        "kl": [0.1 * i for i in range(count)],
        "entropy": [1.0 + i for i in range(count)],
        "gold": [float(i) for i in range(count)],
        "proxy": [2.0 * i for i in range(count)],
        **columns,
    }
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def test_summary_of_two_seeds() -> None:
    response = ["a b c", "a b d", REPEATED, "so so so good"]
    summary = summarise_generations([samples(response), samples(response[::-1], gold=[4.0, 5.0, 6.0, 7.0])])
    assert set(summary) == set(KEYS)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    means = {name: estimate["mean"] for name, estimate in summary.items()}
    assert means["kl"] == pytest.approx(0.15)
    assert means["kl_log_ratio"] == pytest.approx(0.1)
    ratios = 0.1 * np.arange(4) - 0.05
    assert means["kl_k3"] == pytest.approx(np.mean(np.exp(-ratios) - 1 + ratios))
    assert (means["entropy"], means["ended"], means["gold_reward"], means["proxy_reward"]) == (2.5, 0.5, 3.5, 3.0)
    assert means["response_length"] == pytest.approx((4 + 4 + 13 + 5) / 4)
    assert means["repetition"] == pytest.approx(3 / 9 / 4)
    assert means["longest_run"] == pytest.approx(3 / 4 / 4)
    assert means["distinct_2"] == pytest.approx(distinct_n.per_prompt(response).mean())
    assert means["distinct_2"] == pytest.approx((3 + 6 + 2) / (2 + 2 + 11 + 3))
    assert means["duplicates"] == 0.0
    assert summary["duplicates"]["high"] > 0.3  # four responses cannot exclude it
    assert all(estimate["n"] == 8 for estimate in summary.values())


def test_summary_leaves_out_what_records_do_not_have() -> None:
    bare = [{"prompt": "p", "response": "a b c", "log_ratio": 0.5, "gold": None, "proxy": None}]
    summary = summarise_generations([bare])
    missing = {"entropy", "response_length", "ended", "gold_reward", "proxy_reward"}
    assert {name for name, value in summary.items() if value is None} == {*missing, "self_similarity", "duplicates"}
    assert summarise_generations([[], []]) == dict.fromkeys(KEYS)
    # exp(800) is no float64; exp(400) is one, but its square, and so its interval, is none.
    for log_ratio in (-800.0, -400.0):
        exploding = summarise_generations([samples(["a", "b"], log_ratio=[log_ratio, 1.0])])
        assert exploding["kl_k3"] is None
        assert exploding["kl_log_ratio"]["mean"] == (log_ratio + 1) / 2


def test_summary_refuses_gaps_and_other_prompts() -> None:
    response = ["a", "b", "c"]
    with pytest.raises(UserError, match=r"gold of row 1 \(training seed 1\) is missing"):
        summarise_generations([samples(response), samples(response, gold=[1.0, None, 2.0])])
    with pytest.raises(UserError, match=r"log_ratio of row 2 \(training seed 0\) is inf"):
        summarise_generations([samples(response, log_ratio=[0.0, 0.0, math.inf])])
    with pytest.raises(ValueError, match=r"response\[1\] is None"):
        summarise_generations([_without(samples(response), 1)])
    with pytest.raises(ValueError, match="different rows"):
        summarise_generations([samples(response), samples(response, prompt=["p", "q", "r"])])


def _without(rows: list[dict[str, Any]], at: int) -> list[dict[str, Any]]:
    return [row | {"response": None} if i == at else row for i, row in enumerate(rows)]
